"""Answers on a run that are kept until the file that they rest on is replaced."""

import os
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar, TypeVarTuple

_Answer = TypeVar("_Answer")
_Arguments = TypeVarTuple("_Arguments")
_Question = Callable[[Path, *_Arguments], _Answer]


def remembered(
    name: str, most: int = 2**13
) -> Callable[[_Question[*_Arguments, _Answer]], _Question[*_Arguments, _Answer]]:
    """Put a question to a run once, with equal arguments, until its file is another; nobody may change an answer.

    Args:
        name: of the file, in the directory of the run; while there is none, nothing is remembered.
        most: answers that are kept; by default those on some thousand runs.
    """

    def decorate(question: Callable[[Path, *_Arguments], _Answer]) -> Callable[[Path, *_Arguments], _Answer]:
        @lru_cache(maxsize=most)
        def once(version: tuple[int, ...], run: Path, *arguments: *_Arguments) -> _Answer:
            return question(run, *arguments)

        @wraps(question)
        def asked(run: Path, *arguments: *_Arguments) -> _Answer:
            try:
                now = os.stat(f"{run}/{name}")
            except OSError:
                return question(run, *arguments)
            return once((now.st_ino, now.st_size, now.st_mtime_ns), run, *arguments)

        return asked

    return decorate
