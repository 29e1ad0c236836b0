"""The one exception of this project, its warning, and how a command ends with it."""

import difflib
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import NoReturn

BAD_INPUT = 2
"""Exit status of a command that was given what it cannot use."""

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended."""


class OrthoLoraError(Exception):
    """Something the user can put right: one sentence with what was given, what was expected and what to do."""


class OwnPassError(OrthoLoraError):
    """Tasks cannot share a pass. Names what whoever calls `OrthoLoRA` does instead; `said_to` is for other readers."""

    def __init__(self, why: str, remedy: str = "") -> None:
        """Say why, and what else there is to do."""
        own = "give each task a forward pass of its own, as in surgeon.backward({'a': loss_a, 'b': loss_b}) outside"
        super().__init__(f"{why}: {own} `mixed_batch`{remedy and f', or {remedy}'}.")
        self.why, self.remedy = why, remedy

    def said_to(self, remedy: str) -> OrthoLoraError:
        """The same for whom somebody else calls `OrthoLoRA`: what gives each task a pass of its own there."""
        return OrthoLoraError(f"{self.why}: {remedy}{self.remedy and f', or {self.remedy}'}.")


class OrthoLoraWarning(UserWarning):
    """Training goes on, but not as its author will expect."""


def require(extra: str, *packages: str) -> None:
    """Say which extra brings the packages that are not installed.

    Args:
        extra: of this project, as in `pip install 'ortho-lora[app]'`.
        packages: that it brings, by the names they are imported by.

    Raises:
        OrthoLoraError: one of them is not there.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise OrthoLoraError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed, which the extra"
            f" {extra!r} brings: pip install 'ortho-lora[{extra}]'."
        )


def plain(text: str) -> str:
    """Without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


def nearest(given: str, valid: Iterable[str]) -> str:
    """A hint at what was meant, as in `; nearest: 'rank'`; empty where nothing valid is like it."""
    close = difflib.get_close_matches(given, sorted(valid), n=1, cutoff=0.5)
    return f"; nearest: {close[0]!r}" if close else ""


def run_command(command: Callable[[], object]) -> NoReturn:
    """Run a command line and exit: on bad input with one sentence and status 2, on Ctrl-C with 130 and no words."""
    try:
        command()
    except OrthoLoraError as error:
        print(f"error: {plain(str(error))}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)
