import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from analysis.library.notes import make_notes, write_notes
from analysis.library.runs import list_runs
from analysis.library.search import delete_run, disk_bytes, find_runs
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import ProbeInfo


@pytest.fixture
def library(records, tmp_path):
    """Four runs: `a` joint, `b` ortho-lora and failed, `c` archived, `d` a probe of `a`."""
    told = {
        "a": make_notes(title="Baseline", tags=["paper", "good"]),
        "b": make_notes(note="diverged after *warm-up*", tags=["paper"]),
        "c": make_notes(archived=True),
    }
    for place, (name, method) in enumerate({"a": "joint", "b": "ortho-lora", "c": "joint", "d": "joint"}.items()):
        tasks = [records.task_info(task) for task in ("movies", "trec")[: 1 + (name != "b")]]
        probe = ProbeInfo(run="a", step=3, seed=0) if name == "d" else None
        info = records.run_info(name, tasks, method=method, created=10.0 - place, probe=probe)
        records.write_run(tmp_path / name, info, records.status("failed" if name == "b" else "finished"), {})
        if name in told:
            write_notes(tmp_path / name, told[name])
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, "abd"),
        ({"archived": True}, "c"),
        ({"text": "base"}, "a"),
        ({"text": "PAPER warm-up"}, "b"),
        ({"text": "joint trec"}, "ad"),
        ({"text": "probe"}, "d"),
        ({"text": "."}, ""),
        ({"states": ["failed", "lost"]}, "b"),
        ({"methods": ["joint"]}, "ad"),
        ({"tasks": ["movies", "trec"]}, "ad"),
        ({"tags": ["paper"]}, "ab"),
        ({"tags": ["paper", "good"]}, "a"),
        ({"methods": ["joint"], "tags": ["paper"], "text": "movies"}, "a"),
    ],
)
def test_find(library, asked, found):
    assert "".join(run.run_id for run in find_runs(list_runs(library), **asked)) == found


def test_a_run_that_cannot_be_read_is_found_by_its_name(library):
    (library / "a" / "run.json").write_text("{")
    assert [run.run_id for run in find_runs(list_runs(library), text="a", states=["unreadable"])] == ["a"]
    assert not find_runs(list_runs(library), tasks=["movies"], methods=["joint"], text="a good")


def test_deleted_run_is_gone_and_the_others_stay(library):
    delete_run(library, "b")
    assert sorted(path.name for path in library.iterdir()) == ["a", "c", "d"]


def test_run_leaves_the_list_before_its_files_are_removed(library, monkeypatch):
    def refuse(path):
        assert [run.run_id for run in list_runs(library)] == ["a", "c", "d"]
        assert (path / "run.json").exists()
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(OrthoLoraError, match=r"'b' is deleted, but .*\(Permission denied\): remove .*trash-"):
        delete_run(library, "b")


@pytest.mark.parametrize("name", ["../elsewhere", "..", ".", "", "/tmp", "a/../../elsewhere", ".launch"])
def test_nothing_outside_is_deleted(library, name):
    (library.parent / "elsewhere").mkdir(exist_ok=True)
    (library.parent / "elsewhere" / "run.json").touch()
    with pytest.raises(OrthoLoraError, match="expected that of a directory among the runs"):
        delete_run(library, name)
    assert (library.parent / "elsewhere" / "run.json").exists()


def test_links_and_what_is_no_run_are_not_deleted(library, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(library / "a" / "run.json", elsewhere)
    (library / "linked").symlink_to(elsewhere)
    with pytest.raises(OrthoLoraError, match="a link to a directory elsewhere"):
        delete_run(library, "linked")
    assert (elsewhere / "run.json").exists()
    (library / "thesis").mkdir()
    with pytest.raises(OrthoLoraError, match=r"has no run\.json, so it may be something else"):
        delete_run(library, "thesis")
    assert (library / "thesis").exists()


def test_active_run_is_not_deleted(records, library):
    (library / "a" / "status.json").write_text(records.status("running").model_dump_json())
    with pytest.raises(OrthoLoraError, match="'a' is running: stop it before"):
        delete_run(library, "a")
    assert (library / "a" / "run.json").exists()


def test_run_that_another_process_writes_is_not_deleted(library):
    """Whatever its status says: a run that is just resumed still says `stopped`."""
    lock = str(library / "a" / "lock")
    code = f"import filelock\nwith filelock.FileLock({lock!r}):\n    print('held', flush=True)\n    input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OrthoLoraError, match="a: another process is writing this run: wait"):
            delete_run(library, "a")
        holder.communicate(b"\n")
    delete_run(library, "a")
    assert not (library / "a").exists()


def test_lock_is_given_back_where_deletion_fails(library, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OrthoLoraError, match=r"cannot be deleted \(Permission denied\)"):
        delete_run(library, "a")
    with FileLock(library / "a" / "lock", timeout=0):
        assert (library / "a" / "run.json").exists()


def test_disk_bytes(tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "part").write_bytes(b"1234")
    (tmp_path / "log.txt").write_bytes(b"123")
    assert disk_bytes(tmp_path) == 7
