"""Files of a record: read as somebody else may have put them there, and replaced whole."""

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


def replace_text(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def sync_directory(path: Path) -> None:
    """Put names that were made or replaced in a directory on disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
