"""Has runs trained, so many at once, until each has ended in one way or another."""

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import read_status
from ortho_lora.study.executors import Executor, Handle
from ortho_lora.study.folder import Folder
from ortho_lora.study.progress import Progress
from ortho_lora.training.config import Config

LOOK_SECONDS = 0.25
"""Seconds between two looks at the runs under way."""
ATTEMPTS = 3
"""How often a run is started by one command, where something kills its process."""


@dataclass(frozen=True)
class Ending:
    """How a run ended, as far as this command is concerned."""

    state: Literal["finished", "failed", "stopped", "killed"]
    sentence: str = ""

    @property
    def final(self) -> bool:
        """Whether a later command leaves it at that."""
        return self.state in ("finished", "failed")


@dataclass(frozen=True)
class Means:
    """What runs are trained with."""

    executor: Executor
    workers: int  # runs at once
    threads: int  # of each run, where its settings name none
    retry_failed: bool = False


class Schedule:
    """Some runs of a study: those that wait, those under way, and how the others ended."""

    def __init__(self, folder: Folder, configs: Mapping[str, Config], means: Means, progress: Progress) -> None:
        self.folder, self.means, self.progress = folder, means, progress
        self.endings: dict[str, Ending] = {}
        self._waiting: deque[str] = deque()
        self._running: dict[str, Handle] = {}
        self._attempts: Counter[str] = Counter()
        for name, config in configs.items():
            self._take(name, config)
        under_way = {name: read_status(folder.path / name) for name in [*self._running, *self._waiting]}
        progress.kept(self.endings, self._running, under_way)

    def _take(self, name: str, config: Config) -> None:
        """Keep a run that has ended, wait for one that lives, and line up the others."""
        state = self.folder.state(name)
        if state == "failed" and self.means.retry_failed:
            self.folder.forget_failure(name)
        elif state == "failed":
            self.endings[name] = Ending("failed", self.folder.failure(name) or "")
            return
        if state == "finished":
            self.endings[name] = Ending("finished")
        elif state == "alive" and (found := self.means.executor.adopt(self.folder, name)):
            self._running[name] = found
        else:
            threads = config.threads or self.means.threads
            self.folder.write_settings(name, config.model_copy(update={"threads": threads}))
            self._waiting.append(name)

    def carry_out(self, stop: threading.Event) -> dict[str, Ending]:
        """Return how each run ended, when all have; soon after `stop` is set, with the others as stopped."""
        asked = False
        try:
            while self._running or (self._waiting and not stop.is_set()):
                if stop.is_set() and not asked:
                    asked = True
                    for handle in self._running.values():
                        handle.stop()
                while self._waiting and len(self._running) < self.means.workers and not stop.is_set():
                    self._start(self._waiting.popleft())
                for name, handle in list(self._running.items()):
                    if (code := handle.ended()) is not None:
                        del self._running[name]
                        self._end(name, code, again=not stop.is_set())
                self.progress.look({name: read_status(self.folder.path / name) for name in self._running})
                time.sleep(LOOK_SECONDS)
        except BaseException:  # a second Ctrl-C, or what nobody expected: nothing is left behind
            for handle in self._running.values():
                handle.kill()
            raise
        return self.endings | {name: Ending("stopped") for name in self._waiting}

    def _start(self, name: str) -> None:
        self._attempts[name] += 1
        try:
            self._running[name] = self.means.executor.start(self.folder, name)
        except OrthoLoraError as error:  # another process writes the run
            self.endings[name] = Ending("stopped", str(error))
            self.progress.ended(name, "stopped", str(error))
        else:
            self.progress.started(name)

    def _end(self, name: str, code: int, *, again: bool) -> None:
        """Take in that the process of a run has ended; `again`: one that was killed may go on."""
        ending = _judge(self.folder, name, code)
        if ending.state == "killed" and again and self._attempts[name] < ATTEMPTS:
            self.progress.interrupted(name)
            self._waiting.appendleft(name)
            return
        if ending.state == "failed":
            self.folder.note_failure(name, ending.sentence)
        self.endings[name] = ending
        self.progress.ended(name, ending.state, ending.sentence)


def _judge(folder: Folder, name: str, code: int) -> Ending:
    """How a run ended whose process has, with this exit status."""
    status = read_status(folder.path / name)
    if status is not None and status.state == "finished":
        return Ending("finished")
    if code > 0 or (status is not None and status.state == "failed"):
        return Ending("failed", folder.last_words(name))
    if status is not None and status.state == "stopped":
        return Ending("stopped", "stopped while it trained")
    return Ending("killed", "its process was killed")
