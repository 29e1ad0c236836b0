"""`watch`: a surgeon inside anyone's `transformers.Trainer`, whose batches mix tasks as the data does."""

from collections.abc import Sequence
from typing import cast

from transformers import Trainer

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.recorder import Recorder
from ortho_lora.surgery.methods import Branches, OnNonfinite, Order, Rule, Scope
from ortho_lora.trainers import mixture
from ortho_lora.trainers.inside import SurgeonInside
from ortho_lora.trainers.packed import refuse_crossing
from ortho_lora.trainers.turns import TakingTurns, data_sets, takes_turns
from ortho_lora.trainers.watched import Due, Generating, Watched


def watch(
    trainer: Trainer,
    task_column: str = "task",
    tasks: Sequence[str] | None = None,
    *,
    method: str = "joint",
    rule: Rule | None = None,
    scope: Scope | None = None,
    branches: Branches | None = None,
    order: Order = "random",
    snapshots: int = 0,
    snapshot_batches: int = 64,
    group_column: str | None = None,
    recorder: Recorder | None = None,
    record_every: int = 1,
    on_nonfinite: OnNonfinite | None = None,
    log_pairs: bool | None = None,
) -> None:
    """Watch the tasks of one mixed data set while a trainer trains, or project their gradients.

    Call it between making the trainer and `trainer.train()`::

        trainer = SFTTrainer(model, args=SFTConfig(...), train_dataset=mixed, peft_config=LoraConfig(...))
        watch(trainer, task_column="source", recorder=Recorder("runs/mine"))
        trainer.train()

    Mixture, loss, learning rate and clipping stay the trainer's. With `method="joint"` so do the weights, bit for bit,
    and the logs, to which `OrthoLoRA.scalars` are added.

    Args:
        trainer: any kind whose batch is rows of the data set; a model with PEFT LoRA on linear layers.
        task_column: which says of each row of the training data what task it is of; not asked for where data sets take
            turns, as in sentence-transformers: their names are the tasks.
        tasks: their names, in order; None: all that the column holds.
        method: with `rule`, `scope`, `branches`, `order` and `record_every` as in `OrthoLoRA`.
        snapshots: how often to measure at one place how the tasks' mean gradients agree, spread over the training,
            which does not notice; with an `eval_dataset` that has the column, or is by tasks, also what a step for one
            task does to another's loss there.
        snapshot_batches: of every task in each, which cost about as many steps of one task.
        group_column: which says what a row is of, as a document or a film, where other rows of it may come: a snapshot
            never multiplies gradients of one group. None: equal rows are one text.
        recorder: of one training, closed at its end; one that is resumed from a checkpoint goes on with it, in another
            process with `Recorder(..., resume=True)`.
        on_nonfinite: as in `OrthoLoRA`; None: go on, as the trainer alone does; the record tells.
        log_pairs: whether each pair is logged; None: with up to 8 tasks.

    Raises:
        OrthoLoraError: a trainer, a data set or a method that cannot be watched.
    """
    if isinstance(trainer, SurgeonInside):
        raise OrthoLoraError(f"watch: this {type(trainer).__name__} has a surgeon inside: expected a trainer without.")
    kind, base = type(trainer), Watched
    if takes_turns(kind):
        column, base = data_sets(trainer, tasks), TakingTurns
    else:
        refuse_crossing(trainer)
        column = getattr(trainer, "task_column", None) or mixture.task_column(trainer.train_dataset, task_column, tasks)
        if hasattr(kind, "_generate_and_score_completions"):
            base = Generating
    trainer.__class__ = type(kind.__name__, (base, kind), {"__module__": kind.__module__, "kind": kind})
    watched = cast(Watched, trainer)
    watched.recorder, watched._log_pairs = recorder, log_pairs
    watched._surgery = {
        "method": method, "rule": rule, "scope": scope, "branches": branches, "order": order,
        "record_every": record_every, "on_nonfinite": on_nonfinite,
    }  # fmt: skip
    try:
        if snapshots:
            watched.plan(column, snapshots, snapshot_batches, group_column)
        watched.prepare(column.tasks)
    except BaseException:
        trainer.__class__ = kind
        raise
    watched.carry(column)
    watched.add_callback(Due(watched))
