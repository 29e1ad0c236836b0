"""What `run.json` says of a run that `train` or `probe` makes."""

import time
from collections.abc import Mapping, Sequence

from ortho_lora.record.schema import ProbeInfo, RunInfo, TaskInfo
from ortho_lora.record.versions import versions
from ortho_lora.surgery.blocks import Block, module_infos
from ortho_lora.tasks.data import Split, TaskData
from ortho_lora.tasks.metrics import majority_baseline
from ortho_lora.training.config import Config


def identity(
    config: Config,
    tasks: Sequence[TaskData],
    subsets: Sequence[Mapping[str, Split]],
    blocks: Sequence[Block],
    *,
    run_id: str,
    gradient_mode: str,
    command: Sequence[str],
    probe: ProbeInfo | None = None,
) -> RunInfo:
    """Of the run, or probe, `run_id`, whose tasks are evaluated on `subsets`, by split."""
    infos = [
        TaskInfo(
            name=task.name,
            kind=task.kind,
            classes=task.classes,
            metrics=task.metrics,
            train_examples=len(task.train),
            evaluation_examples={split: len(subset) for split, subset in of_task.items()},
            majority=majority_baseline(task, of_task),
            twin_of=task.twin_of,
            shares_head=task.shares_head,
            loss_weight=settings.loss_weight,
            dropped={split: dict(reasons) for split, reasons in task.dropped.items()},
        )
        for task, settings, of_task in zip(tasks, config.tasks, subsets, strict=True)
    ]
    return RunInfo(
        run_id=run_id,
        created=time.time(),
        method=config.label,
        rule=config.effective.rule,
        scope=config.effective.scope,
        seed=config.seed,
        gradient_mode=gradient_mode,
        config=config.model_dump(mode="json"),
        tasks=tuple(infos),
        modules=module_infos(blocks),
        versions=versions(),
        command=list(command),
        probe=probe,
    )
