"""Take some real optimizer steps from where a run is, with and without each task: what each does to the others' loss.

What is compared has taken the same steps from the same state of the optimizer, on the same batches and with the same
dropout, but for the task that was left out. A draw is other batches.

The steps with a task end a displacement d further than those without it. What d does to a loss f is told apart, at the
place where the steps began: `odd`, (f(+d) - f(-d)) / 2, what turns with its sign and a first order can know; `even`,
(f(+d) + f(-d)) / 2 - f(0), what it costs wherever it points, as noise does. The rest of the difference is where d meets
what the other tasks have moved. Steps of training are so short that the odd part is the held-out gradient times d (on
five packaged tasks the two agreed within a thousandth), which one backward pass over all held-out texts tells of all
draws and sources; the even part, which changes little from text to text, is evaluated on a few of them.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching.life import log_to, new_run_id, stop_on_signal
from ortho_lora.record.admission import check_free
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import ProbeInfo, State, Status, read_run, read_status
from ortho_lora.surgery.nonfinite import sentence
from ortho_lora.surgery.projection import check_rule
from ortho_lora.tasks.data import Split, TaskData, take
from ortho_lora.training.batches import TaskSampler, seed_of
from ortho_lora.training.checkpoint import check_exists
from ortho_lora.training.config import Config, load_config
from ortho_lora.training.effects import Found, Plan, conclude, found_of
from ortho_lora.training.evaluation import example_losses
from ortho_lora.training.identity import identity
from ortho_lora.training.session import Training, tasks_of

log = logging.getLogger(__name__)

MEASURING = frozenset({"batch_size", "device", "eval_batch_size", "eval_examples", "precision", "threads"})
"""Settings in which a lookahead may differ from its run; with another batch size steps are less, or more, noisy."""
SPLIT = "validation"
FEW = 64
"""Held-out examples of each target that the even part is evaluated on."""

Losses = list[NDArray[np.float64]]
"""By target, of each of its held-out examples."""
Parameters = dict[str, Tensor]


def lookahead(
    config: Config,
    runs_dir: Path,
    run_id: str | None = None,
    *,
    of: Path,
    plan: Plan = Plan(),  # noqa: B008  # frozen
    seed: int | None = None,
    command: Sequence[str] = (),
    report: Callable[[Status], None] = lambda status: None,
) -> Found:
    """Look ahead from the last checkpoint of a run, and leave the record of it under `runs_dir`.

    Args:
        config: settings, of `config_of`.
        runs_dir: directory of the runs; made where missing.
        run_id: name of the lookahead; by default the time (UTC) and `lookahead`.
        of: directory of the run, which is only read, also while it trains.
        plan: how many steps and draws.
        seed: of batches and dropout; by default that of the configuration.
        command: what the user typed, for the record.
        report: called with the lookahead's status whenever it changes.

    Raises:
        OrthoLoraError: bad input, or a loss or gradient that is not finite.
    """
    run_id = check_free(runs_dir, run_id or new_run_id(runs_dir, "lookahead"))
    with stop_on_signal() as stop:
        recorder = Recorder(runs_dir / run_id, total=plan.draws * (len(config.tasks) + 1) * plan.steps)
        check_rule(config.effective.rule)
        training = Training(config, tasks_of(config), report, stop)
        training.restore(of)
        for group in training.optimizer.param_groups:
            group["lr"] = group["lr"] or group["initial_lr"]  # as of `config_of`
        place = ProbeInfo(
            run=read_run(of).run_id, step=training.place.step, seed=config.seed if seed is None else seed,
            steps=plan.steps,
        )  # fmt: skip
        recorder.begin(
            identity(
                config,
                training.tasks,
                [{SPLIT: subsets[SPLIT]} for subsets in training.subsets],
                training.groups[0].surgeon.blocks,
                run_id=run_id,
                gradient_mode=training.mode,
                command=command,
                probe=place,
            )
        )
        with recorder, log_to(recorder.run_dir / "log.txt"):
            log.info("%s on %s", place.what, training.device)
            looking = _Looking(training, recorder, plan, place.seed)
            try:
                state = looking.look()
            except BaseException as error:
                log.error("the lookahead failed: %s", error, exc_info=not isinstance(error, OrthoLoraError))
                raise
            found = looking.found()
            message = conclude(found)
            log.info("%s", message)
            report(recorder.status(state, step=looking.taken, phase="done", losses=training.losses, message=message))
    return found


def config_of(run_dir: Path, changes: Mapping[str, Any] | None = None) -> Config:
    """The settings to look ahead with: those of the run, but for some in how it is measured.

    Where a finished run's learning rate has gone to 0, steps are taken at the configured one, as transfer is predicted.

    Raises:
        OrthoLoraError: not a run, its tasks do not act on each other, it has no checkpoint, or a change that is none of
            `MEASURING`.
    """
    info = read_run(run_dir)
    if info.probe is not None:
        raise OrthoLoraError(f"{run_dir}: it is no run but a {info.probe.what}: look ahead from a run.")
    check_exists(run_dir, "to look ahead from")
    if refused := sorted(set(changes or {}) - MEASURING):
        raise OrthoLoraError(
            f"{refused[0]}: looking ahead goes on with the run's own settings; only {', '.join(sorted(MEASURING))} may"
            " be set. For another method train a run with it."
        )
    config = load_config(overrides=info.config | dict(changes or {}))
    if config.method == "single":
        raise OrthoLoraError(
            f"{run_dir}: method 'single' gives each task an adapter of its own, so no task does anything to another:"
            " look ahead from a run of another method."
        )
    if config.groups:
        raise OrthoLoraError(
            f"{run_dir}: its tasks share {len(config.groups)} adapters, and a lookahead steps in one: look ahead from a"
            " run without groups."
        )
    if len(config.tasks) < 2:
        raise OrthoLoraError(
            f"{run_dir}: its only task is {config.tasks[0].name}, expected at least two, one to leave out."
        )
    status = read_status(run_dir)
    if config.schedule != "constant" and status is not None and status.state == "finished":
        return config.model_copy(update={"schedule": "constant", "warmup_steps": 0})
    return config


def batches_of(
    tasks: Sequence[TaskData], batch_size: int, steps: int, *, seed: int, step: int, draw: int
) -> list[list[list[int]]]:
    """Of one draw: by step and task, training examples."""
    sampler = TaskSampler(tasks, batch_size, seed_of(seed, "lookahead", str(step), str(draw)))
    return [sampler.next() for _ in range(steps)]


class _Looking:
    """A lookahead under way."""

    def __init__(self, training: Training, recorder: Recorder, plan: Plan, seed: int) -> None:
        self.training, self.recorder, self.plan, self.seed = training, recorder, plan, seed
        self.tasks = [task.name for task in training.tasks]
        self.start = deepcopy(training.checkpoint.state_dict())
        self.held_out = [subsets[SPLIT] for subsets in training.subsets]
        self.few = [take(split, _spread(len(split))) for split in self.held_out]
        self.taken = 0  # optimizer steps
        self.rows: list[list[dict[str, Any]]] = []  # by draw
        self._started = time.perf_counter()

    def look(self) -> State:
        """Take the draws, each recorded as soon as it is complete."""
        self._say_progress()
        before, before_few = (self.losses_at(self.start["parameters"], of) for of in (self.held_out, self.few))
        slopes = self.gradients()
        for number in range(self.plan.draws):
            rows = self.draw(number, before, before_few, slopes)
            if rows is None:
                return "stopped"
            self.rows.append(rows)
            names = [row["source"] for row in rows]
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            self.recorder.add("lookahead", **columns | {"source": np.array(names, object)})
            self.recorder.flush()
        return "finished"

    def found(self) -> Found:
        """What the draws that are complete tell."""
        return found_of(self.recorder.run_dir, self.training.place.step, self.plan, self.rows)

    def draw(
        self, number: int, before: Losses, before_few: Losses, slopes: Sequence[Parameters]
    ) -> list[dict[str, Any]] | None:
        """The rows of a draw; None: it was stopped.

        Args:
            number: of the draw.
            before: held-out losses where the steps begin.
            before_few: of them those of `few`.
            slopes: of the means of `before`.
        """
        training, step = self.training, self.training.place.step
        batches = batches_of(
            training.tasks, training.config.batch_size, self.plan.steps, seed=self.seed, step=step, draw=number
        )
        rows: list[dict[str, Any]] = []

        def add(source: str | None, part: str, told: Sequence[tuple[float, float, int]]) -> None:
            for target, (value, error, examples) in zip(self.tasks, told, strict=True):
                rows.append(
                    {"step": step, "draw": number, "source": source, "target": target, "part": part,
                     "value": value, "error": error, "examples": examples}
                )  # fmt: skip

        everybody = self.advanced(number, batches)
        if everybody is None:
            return None
        after = self.losses_at(everybody, self.held_out)
        add(None, "difference", _means(after, before))
        for source in self.tasks:
            others = self.advanced(number, batches, without=source)
            if others is None:
                return None
            add(source, "difference", _means(after, self.losses_at(others, self.held_out)))
            further = {name: value - others[name] for name, value in everybody.items()}
            there, back = (self.losses_at(self.displaced(further, sign), self.few) for sign in (1, -1))
            odd = []
            for slope, split, plus, minus in zip(slopes, self.held_out, there, back, strict=True):
                value = sum(float((slope[name].double() * by.double()).sum()) for name, by in further.items())
                odd.append((value, _spread_of((plus - minus) / 2) / np.sqrt(len(split)), len(split)))
            add(source, "odd", odd)
            add(source, "even", _means([(p + m) / 2 for p, m in zip(there, back, strict=True)], before_few))
        return rows

    def advanced(
        self, draw: int, batches: Sequence[Sequence[Sequence[int]]], without: str | None = None
    ) -> Parameters | None:
        """The parameters after a draw's steps from the start; None: it was stopped."""
        training = self.training
        training.checkpoint.load_state_dict(deepcopy(self.start))
        for number, indices in enumerate(batches):
            if training.stop.is_set():
                return None
            chance = seed_of(self.seed, "lookahead", "dropout", str(training.place.step), str(draw), str(number))
            measured, found = training.advance(indices, without=without, chance=chance)
            if problems := [of for of_group in found for of in of_group]:
                left_out = "" if without is None else f", without {without}"
                raise OrthoLoraError(
                    f"lookahead: {sentence(problems, f'in step {number} of draw {draw}{left_out}')}: train with a lower"
                    " learning_rate, warmup_steps or clip."
                )
            self.taken += 1
            if without is None:
                training.losses = dict(zip(self.tasks, measured[0].losses.tolist(), strict=True))
            self._say_progress()
        return {name: parameter.detach().clone() for name, parameter in training.checkpoint.trained.items()}

    def displaced(self, further: Parameters, sign: int) -> Parameters:
        """The parameters where the steps begin, moved by what a source adds to the others' steps, or against it."""
        return {name: value + sign * further[name] for name, value in self.start["parameters"].items()}

    def gradients(self) -> list[Parameters]:
        """Of every target's mean held-out loss where the steps begin, in evaluation mode."""
        training, size = self.training, self.training.config.eval_batch_size
        trained = training.checkpoint.trained
        self._place(self.start["parameters"])
        found = []
        with training.groups[0].surgeon.collector.looking_away():
            for name, split in zip(self.tasks, self.held_out, strict=True):
                training.optimizer.zero_grad()
                for first in range(0, len(split), size):
                    some = list(range(first, min(first + size, len(split))))
                    (len(some) / len(split) * training.passes.loss(name, (split, some))).backward()
                found.append({of: _gradient(parameter) for of, parameter in trained.items()})
        training.optimizer.zero_grad()
        return found

    def losses_at(self, parameters: Parameters, splits: Sequence[Split]) -> Losses:
        """Of every target on the examples of its split, in evaluation mode."""
        training = self.training
        self._place(parameters)
        encoded: dict[str, Tensor] = {}  # a twin evaluates on its original's texts
        found = []
        for task, (data, split) in enumerate(zip(training.tasks, splits, strict=True)):
            texts = data.twin_of or data.name
            if texts not in encoded:
                encoded[texts] = training.evaluation.encode(split)
            found.append(example_losses(training.model, task, split, encoded[texts]))
        return found

    def _place(self, parameters: Parameters) -> None:
        with torch.no_grad():
            for name, parameter in self.training.checkpoint.trained.items():
                parameter.copy_(parameters[name])
        self.training.model.eval()

    def _say_progress(self) -> None:
        left, spent = self.recorder.total - self.taken, time.perf_counter() - self._started
        eta = left * spent / self.taken if self.taken else None
        self.training.report(self.recorder.progress(self.taken, self.training.losses, eta, phase="looking ahead"))


def _spread(examples: int) -> list[int]:
    """Places of a few of so many examples, which may be in an order."""
    return np.unique(np.linspace(0, examples - 1, min(examples, FEW)).astype(int)).tolist()


def _means(one: Losses, other: Losses) -> list[tuple[float, float, int]]:
    """By target, of the differences: mean, its standard error, and of how many examples."""
    pairs = [first - second for first, second in zip(one, other, strict=True)]
    return [(float(of.mean()), _spread_of(of) / np.sqrt(len(of)), len(of)) for of in pairs]


def _spread_of(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else np.nan


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
