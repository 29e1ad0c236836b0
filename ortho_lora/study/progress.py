"""How a study gets on: bars with an ETA on a terminal, lines in a log elsewhere."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from ortho_lora.record.schema import Status
from ortho_lora.training.config import Config


class Progress:
    """Counts work in steps x tasks, and says what happens, a line each."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._work: dict[str, int] = {}
        self._tasks: dict[str, int] = {}
        self._over: set[str] = set()
        self._steps: dict[str, int] = {}  # that runs have done which are not over
        self._started: float | None = None
        self._before = 0  # work that was done when this command began
        self._done = 0

    def expect(self, configs: Mapping[str, Config]) -> None:
        """Learn which runs there are, or will be."""
        self._tasks = {name: len(config.tasks) for name, config in configs.items()}
        self._work = {name: config.steps * len(config.tasks) for name, config in configs.items()}

    def kept(self, over: Iterable[str], running: Iterable[str], begun: Mapping[str, Status | None]) -> None:
        """Learn which runs an earlier command has done with, which of its go on, and how far it brought the others."""
        new = set(over) - self._over
        self._over |= new
        if new:
            self._say(f"{len(new)} runs were done with before")
        for name in running:
            self._say(f"{name} still trains, and is waited for")
        self.look(begun)
        if self._started is None:
            self._started, self._before = time.monotonic(), self._done

    def started(self, name: str) -> None:
        self._say(f"{name} starts")

    def interrupted(self, name: str) -> None:
        self._say(f"{name} was killed, and goes on")

    def ended(self, name: str, state: str, sentence: str) -> None:
        if state in ("finished", "failed"):
            self._over.add(name)
        self._say(f"{name} {state}{f': {sentence}' if sentence else ''}; {self._overview()}")

    def look(self, running: Mapping[str, Status | None]) -> None:
        """Take in how far runs are."""
        self._steps |= {name: status.step for name, status in running.items() if status is not None}
        under_way = {name: step for name, step in self._steps.items() if name not in self._over}
        self._done = sum(self._work.get(name, 0) for name in self._over) + sum(
            step * self._tasks.get(name, 0) for name, step in under_way.items()
        )

    @property
    def total(self) -> int:
        return sum(self._work.values())

    @property
    def eta_seconds(self) -> float | None:
        """From what a step of a task took since this command began; None where that is not known yet."""
        made = self._done - self._before
        if self._started is None or made <= 0:
            return None
        return (self.total - self._done) * (time.monotonic() - self._started) / made

    def _overview(self) -> str:
        eta = self.eta_seconds
        over = len(self._over & self._work.keys())
        return f"{over} of {len(self._work)} runs" + (f", ETA {_duration(eta)}" if eta is not None else "")

    def _say(self, line: str) -> None:
        self.console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, highlight=False, soft_wrap=True)


class Shown(Progress):
    """With a bar for the study and one for each run under way."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.bars = Bars(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            console=console,
        )  # fmt: skip
        self._whole = self.bars.add_task("steps x tasks", total=None, note="")
        self._of_run: dict[str, TaskID] = {}

    def look(self, running: Mapping[str, Status | None]) -> None:
        super().look(running)
        for name in self._of_run.keys() - running.keys():
            self.bars.remove_task(self._of_run.pop(name))
        for name, status in running.items():
            if name not in self._of_run:
                self._of_run[name] = self.bars.add_task(name, total=None, note="")
            if status is not None:
                self.bars.update(
                    self._of_run[name], completed=status.step, total=status.total or None, note=status.phase
                )
        self.bars.update(self._whole, completed=self._done, total=self.total, note=self._overview())


@contextmanager
def progress() -> Iterator[Progress]:
    """Bars on a terminal, lines elsewhere, on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Progress(console)
        return
    shown = Shown(console)
    with shown.bars:
        yield shown


def _duration(seconds: float) -> str:
    """Like `45 s` or `1 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
