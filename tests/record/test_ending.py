"""Runs that nobody closes: real processes that end in every way that there is, and what is on disk then."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from forks import forks
from waiting import PATIENCE, wait_for

from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import read_status

ROOT = Path(__file__).resolve().parents[2]
STEPS = 50

LOOP = """
import sys, threading, time
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import RunInfo, TaskInfo

INFO = RunInfo(
    run_id="x", created=0.0, method="joint", rule="sum", scope="block", seed=0, gradient_mode="library", config={},
    tasks=(TaskInfo(name="a"),), modules=(), versions={}, command=[],
)

def start(**given):
    recorder = Recorder("x", flush_seconds=1e9, **given)  # nothing is on disk by itself
    recorder.begin(INFO)
    return recorder

def train(recorder, steps=range(50)):
    for step in steps:
        recorder.add("steps", step=step, task=["a"], loss=[1.0], learning_rate=0.1, seconds=0.1, order=0)
        recorder.progress(step + 1, {"a": 1.0})
"""


def command(code):
    return [sys.executable, "-c", LOOP + textwrap.dedent(code)]


def environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}


def run(where, code):
    return forks("ortho_lora.record.recorder").run(command(code)[1:], where, environment())


def rows(run_dir):
    """Of `steps` that are on disk and count."""
    return sum(pq.read_metadata(part).num_rows for part in part_files(run_dir, "steps"))


def ended(run_dir):
    status = read_status(run_dir)
    return status.state, status.message


ENDINGS = {
    "normally": ("recorder = start(); train(recorder)", 0, ("finished", "")),
    "with all steps that were to be": ("recorder = start(total=50); train(recorder)", 0, ("finished", "")),
    "before its last step": (
        "recorder = start(total=60); train(recorder)",
        0,
        ("stopped", "ended after step 50 of 60, and nobody closed its recorder"),
    ),
    "in a function": ("def main():\n    recorder = start(); train(recorder)\nmain()", 0, ("finished", "")),
    "in a function, by an error": (
        "def main():\n    recorder = start(); train(recorder); raise ValueError('boom')\nmain()",
        1,
        ("failed", "boom"),
    ),
    "by an error": ("recorder = start(); train(recorder); 1 / 0", 1, ("failed", "division by zero")),
    "by an error without words": ("recorder = start(); train(recorder); raise KeyError", 1, ("failed", "KeyError")),
    "by sys.exit": ("recorder = start(); train(recorder); sys.exit()", 0, ("finished", "")),
    "by sys.exit 0": ("recorder = start(); train(recorder); sys.exit(0)", 0, ("finished", "")),
    "by sys.exit 3": ("recorder = start(); train(recorder); sys.exit(3)", 3, ("failed", "exited with code 3")),
    "by sys.exit with words": ("recorder = start(); train(recorder); sys.exit('no')", 1, ("failed", "no")),
    "by sys.exit in a function": (
        "def main():\n    recorder = start(); train(recorder); sys.exit(3)\nmain()",
        3,
        ("failed", "exited with code 3"),
    ),
    "by sys.exit for an error": (
        "recorder = start(); train(recorder)\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    sys.exit(2)",
        2,
        ("failed", "exited with code 2 (division by zero)"),
    ),
    "after an exit that was caught": (
        "recorder = start(); train(recorder, range(20))\ntry:\n    sys.exit(1)\nexcept SystemExit:\n    pass\n"
        "train(recorder, range(20, 50))",
        0,
        ("finished", ""),
    ),
    "in a context, by sys.exit 0": ("with start() as recorder:\n    train(recorder); sys.exit(0)", 0, ("finished", "")),
    "in a context, by sys.exit 3": (
        "with start() as recorder:\n    train(recorder); sys.exit(3)",
        3,
        ("failed", "exited with code 3"),
    ),
    "in a thread": (
        "recorder = start()\nthread = threading.Thread(target=train, args=[recorder]); thread.start()",
        0,
        ("finished", ""),
    ),
    "in a thread, by an error": (
        "def main():\n    recorder = start(); train(recorder); raise ValueError('boom')\n"
        "thread = threading.Thread(target=main); thread.start()",
        0,
        ("failed", "boom"),
    ),
    "in a thread that outlives the main one": (
        "recorder = start()\ndef main():\n    time.sleep(0.5); train(recorder)\nthreading.Thread(target=main).start()",
        0,
        ("finished", ""),
    ),
    "forgotten": ("recorder = start(); train(recorder); del recorder; time.sleep(0)", 0, ("finished", "")),
    "forgotten in a cycle": (
        "class Box: pass\nbox = Box(); box.box = box; box.recorder = start(); train(box.recorder); del box\n"
        "import gc; gc.collect()",
        0,
        ("finished", ""),
    ),
    "with a child that was forked": (
        "import os\nrecorder = start(); train(recorder, range(20))\n"
        "if not (child := os.fork()):\n    sys.exit(7)\n"
        "os.waitpid(child, 0); train(recorder, range(20, 50))",
        0,
        ("finished", ""),
    ),
    "without a step": (
        "recorder = start()",
        0,
        ("failed", "no step was recorded: the training ended before its first step"),
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_what_was_added_is_on_disk_and_the_state_is_true(tmp_path, name):
    code, exit_code, expected = ENDINGS[name]
    done = run(tmp_path, code)
    assert done.returncode == exit_code, done.stderr
    assert ended(tmp_path / "x") == expected
    assert rows(tmp_path / "x") == (0 if name == "without a step" else STEPS)
    assert "Exception ignored" not in done.stderr


SIGNALS = {
    "Ctrl-C": (signal.SIGINT, -signal.SIGINT, ("stopped", "interrupted")),
    "a scheduler": (signal.SIGTERM, 128 + signal.SIGTERM, ("stopped", "ended by SIGTERM")),
    "a terminal that closes": (signal.SIGHUP, 128 + signal.SIGHUP, ("stopped", "ended by SIGHUP")),
}


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("context", ["recorder = start()\nif True:", "with start() as recorder:"], ids=["left", "with"])
def test_a_signal_stops_a_run_and_loses_no_row(tmp_path, name, context):
    number, exit_code, expected = SIGNALS[name]
    code = f"{context}\n    train(recorder); print('trained', flush=True)\n    while True: time.sleep(0.01)"
    with subprocess.Popen(
        command(code),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # who runs the tests may ignore it, as `nohup` does
    ) as child:
        try:
            assert child.stdout.readline() == "trained\n"
            child.send_signal(number)
            assert child.wait(PATIENCE) == exit_code
        finally:
            child.kill()
    assert ended(tmp_path / "x") == expected
    assert rows(tmp_path / "x") == STEPS


def test_who_handles_a_signal_keeps_it(tmp_path):
    done = run(
        tmp_path,
        """
        import os, signal
        seen = []
        signal.signal(signal.SIGTERM, lambda *of: seen.append(of))
        recorder = start(); train(recorder)
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen
        """,
    )
    assert done.returncode == 0, done.stderr
    assert ended(tmp_path / "x") == ("finished", "")


def test_nothing_is_watched_when_no_run_is_open(tmp_path):
    done = run(
        tmp_path,
        """
        import signal
        before = sys.exit, threading.excepthook, signal.getsignal(signal.SIGTERM)
        recorder = start()
        assert (sys.exit, threading.excepthook, signal.getsignal(signal.SIGTERM)) != before
        train(recorder); recorder.close()
        assert (sys.exit, threading.excepthook, signal.getsignal(signal.SIGTERM)) == before
        """,
    )
    assert done.returncode == 0, done.stderr


PROCESSES = """
import multiprocessing
def work(error):
    recorder = start(); train(recorder)
    if error:
        raise ValueError("boom")
if __name__ == "__main__":
    child = multiprocessing.get_context({start!r}).Process(target=work, args=[{error}])
    child.start(); child.join()
    sys.exit(child.exitcode)
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("error", [False, True])
def test_processes_of_multiprocessing(tmp_path, start, error):
    (tmp_path / "work.py").write_text(LOOP + PROCESSES.format(start=start, error=error))
    done = subprocess.run(
        [sys.executable, "work.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == int(error), done.stderr
    assert ended(tmp_path / "x") == (("failed", "boom") if error else ("finished", ""))
    assert rows(tmp_path / "x") == STEPS


def test_a_child_that_was_forked_may_not_record(tmp_path):
    done = run(
        tmp_path,
        """
        import os
        recorder = start(); train(recorder)
        if not (child := os.fork()):
            train(recorder, range(50, 60))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        """,
    )
    assert "is recorded by the process that this one was forked from, and by no other" in done.stderr
    assert ended(tmp_path / "x") == ("finished", "")
    assert rows(tmp_path / "x") == STEPS


def test_a_directory_that_goes_away_is_said_at_the_end(tmp_path):
    done = run(tmp_path, "import shutil\nrecorder = start(); train(recorder); shutil.rmtree('x')")
    assert "the run's directory is gone: it was deleted" in done.stderr


NOTEBOOK = {  # cells, how the kernel ends, and the state then
    "after its cell": (["recorder = start(); train(recorder)"], "restart", ("finished", "")),
    "after an error elsewhere": (["recorder = start(); train(recorder)", "1 / 0"], "restart", ("finished", "")),
    "after its own error": (
        ["recorder = start(); train(recorder); 1 / 0", "1"],
        "restart",
        ("failed", "division by zero"),
    ),
    "in its cell": (
        ["recorder = start(); train(recorder)\nwhile True: time.sleep(0.01)"],
        "restart",
        ("stopped", "interrupted"),
    ),
    "in its cell, by SIGTERM": (
        ["recorder = start(); train(recorder)\nwhile True: time.sleep(0.01)"],
        "terminate",
        ("stopped", "ended by SIGTERM"),
    ),
}


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("name", NOTEBOOK)
def test_a_notebooks_kernel_that_is_restarted(tmp_path, name, monkeypatch):
    pytest.importorskip("ipykernel")
    manager = pytest.importorskip("jupyter_client.manager").KernelManager()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    cells, end, expected = NOTEBOOK[name]
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)
        for code in [LOOP, *cells]:
            if "while True" in code:
                client.execute(code)
                wait_for(lambda: (status := read_status(tmp_path / "x")) is not None and status.step == STEPS)
            else:
                client.execute_interactive(code, timeout=PATIENCE, output_hook=lambda message: None)
        if end == "restart":
            manager.restart_kernel(now=False)
        else:
            manager.provisioner.process.send_signal(signal.SIGTERM)
            wait_for(lambda: manager.provisioner.process.poll() is not None)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert ended(tmp_path / "x") == expected
    assert rows(tmp_path / "x") == STEPS
