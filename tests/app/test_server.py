"""The real server, started from any folder: on loopback only, and it sends no statistics."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
from waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
MAIN = str(ROOT / "app" / "main.py")


@pytest.fixture
def serve(tmp_path):
    """Starts a server in another folder, where settings ask for all the world: serve(*command)."""
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "config.toml").write_text('[server]\naddress = "0.0.0.0"\n')
    (tmp_path / "runs").mkdir()
    started = []

    def start(*command):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "ORTHO_LORA_RUNS_DIR": "runs"}
        with (tmp_path / "output").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=tmp_path, env=environment, stdout=output, stderr=output
            )
        started.append(process)
        found = wait_for(lambda: listening(process.pid), process, tmp_path / "output")
        return found, (tmp_path / "output").read_text()

    yield start
    for process in started:
        process.kill()
        process.wait()


def listening(pid):
    return [one.laddr for one in psutil.Process(pid).net_connections("inet") if one.status == psutil.CONN_LISTEN]


@pytest.mark.parametrize("command", [["streamlit", "run", MAIN], ["app"]])
def test_it_listens_on_loopback_alone_and_sends_nothing(command, serve):
    ((address, port),), said = serve(*command, "--server.port", "0")
    assert address == "127.0.0.1"
    assert "usage statistics" not in said
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health") as answer:
        assert answer.read() == b"ok"


def test_who_says_so_is_served_elsewhere(serve):
    """That the test above can fail: an address that is asked for is taken."""
    ((address, _),), _ = serve("app", "--server.port", "0", "--server.address", "0.0.0.0")
    assert address == "0.0.0.0"
