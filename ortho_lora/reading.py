"""Reads files that somebody else may have put there: a pipe is never waited for. Importable without torch."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading bytes.

    Raises:
        OSError: there is none, it cannot be read, or it is a directory, a pipe or a device.
    """
    plain = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # else opening a pipe waits for its writer
    descriptor = os.open(path, os.O_RDONLY | plain)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path) -> bytes:
    """All of a file; raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def why(error: OSError) -> str:
    """What the system says of an error, without numbers and paths."""
    return error.strerror or str(error)


def is_text(name: str) -> bool:
    """Whether a name of a file is text: others cannot be shown, or sent to a browser."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
