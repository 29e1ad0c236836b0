"""The final scores of runs that are compared, by method, task and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from analysis.library.runs import Run
from analysis.outcomes.scores import LOWER_IS_BETTER, MEAN, Score, Scores, paired
from analysis.statistics.seeds import Paired, mean_of
from ortho_lora.record.schema import TaskInfo

Condition: TypeAlias = tuple[tuple[str, str], ...]
"""The label of each axis."""
SINGLE = "single"


@dataclass(frozen=True)
class Board:
    """The scores of all methods under one condition, by method, task and seed.

    Where the metrics of more than one task that is no twin point the same way, there is a task `MEAN` too.
    """

    condition: Condition
    baseline: str
    tasks: tuple[TaskInfo, ...]
    scores: Mapping[str, Mapping[str, Mapping[int, Score]]]

    @classmethod
    def of(cls, condition: Condition, baseline: str, runs: Mapping[str, Mapping[int, Run]], scores: Scores) -> "Board":
        """Of runs by method and seed; what has no score is left out."""
        tasks: dict[str, TaskInfo] = {}
        by_method: dict[str, dict[str, dict[int, Score]]] = {}
        for method, of_method in runs.items():
            for seed, run in of_method.items():
                for task in run.info.tasks if run.info else ():
                    if score := scores.get((run.run_id, task.name)):
                        tasks.setdefault(task.name, task)
                        by_method.setdefault(method, {}).setdefault(task.name, {})[seed] = score
        return cls(condition, baseline, tuple(tasks.values()), by_method)

    @property
    def name(self) -> str:
        return name_of(self.condition)

    @property
    def methods(self) -> tuple[str, ...]:
        """Those with a finished run."""
        return tuple(self.scores)

    @property
    def others(self) -> tuple[str, ...]:
        """Methods that are compared with the baseline."""
        return tuple(method for method in self.scores if method != self.baseline)

    @cached_property
    def counted(self) -> tuple[str, ...]:
        """Tasks that an average is over: without twins, whose labels are flipped."""
        return tuple(task.name for task in self.tasks if task.twin_of is None)

    @cached_property
    def metrics(self) -> dict[str, str]:
        """The primary metric of each task; of `MEAN` all of them."""
        found = {task.name: task.metrics[0] for task in self.tasks}
        of_mean = dict.fromkeys(found[name] for name in self.counted)
        one_way = len({metric in LOWER_IS_BETTER for metric in of_mean}) == 1
        return found | ({MEAN: " and ".join(of_mean)} if len(self.counted) > 1 and one_way else {})

    @property
    def headline(self) -> str | None:
        """What the study is told by in one number: the mean, or the only task that counts; None: neither."""
        return MEAN if MEAN in self.metrics else self.counted[0] if len(self.counted) == 1 else None

    def sign(self, task: str) -> int:
        """-1 where less is better."""
        name = self.counted[0] if task == MEAN else task
        return -1 if self.metrics[name] in LOWER_IS_BETTER else 1

    def paired(self, task: str, methods: Sequence[str]) -> list[Paired]:
        """The scores of several methods on the seeds that all of them have, maybe none."""
        if task == MEAN:
            parts = [self.paired(name, methods) for name in self.counted]
            seeds = set.intersection(*(set(part[0].seeds) for part in parts))
            return [mean_of([part[place].at(seeds) for part in parts]) for place in range(len(methods))]
        found = [self.scores.get(method, {}).get(task, {}) for method in methods]
        shared = sorted(set.intersection(*map(set, found)))
        return [paired(of_one, shared) for of_one in found]

    def gain(self, method: str, task: str) -> Paired:
        """How much better a method is than the baseline; no seeds where nothing is paired."""
        ours, theirs = self.paired(task, [method, self.baseline])
        return ours.minus(theirs).times(self.sign(task))


def name_of(condition: Condition) -> str:
    """Like `rho=0.5, rank=8`; empty where the study has no axes."""
    return ", ".join(f"{axis}={label}" for axis, label in condition)
