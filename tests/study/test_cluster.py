"""A study on a real Ray cluster of two workers, one of which is lost while it trains."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
import yaml
from studies import tiny_model, tiny_tasks
from waiting import PATIENCE, wait_for

from analysis.library.runs import list_runs
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import CHECKPOINT, read_status
from ortho_lora.record.study import read_study
from ortho_lora.study import cluster as cluster_module


@pytest.fixture
def cluster(monkeypatch):
    """The address of a cluster with two nodes of one processor each, beside its head."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv(cluster_module.LOOPBACK, "0")
    from ray.cluster_utils import Cluster

    nodes = {"node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **nodes})
    for _ in range(2):
        made.add_node(num_cpus=1, **nodes)
    yield made.address
    made.shutdown()


def test_a_study_survives_the_loss_of_a_worker(cluster, tmp_path):
    study = {
        "base": {
            "model": tiny_model(tmp_path / "model"), "tasks": tiny_tasks(tmp_path), "batch_size": 4, "max_length": 16,
            "rank": 2, "eval_examples": 16, "eval_every": 10_000, "checkpoint_every": 5, "steps": 150,
        },
        "methods": ["joint", "single"],
        "seeds": [0],
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(study))
    output = tmp_path / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "ortho_lora", "study", str(tmp_path / "mine.yaml"), "--ray", cluster,
             "--runs-dir", str(tmp_path / "runs")],
            stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    folder = tmp_path / "runs" / "mine"
    try:
        lost = wait_for(lambda: [path.parent.parent for path in folder.glob(f"*/{CHECKPOINT}")], process, output)
        status = wait_for(lambda: (now := read_status(lost[0])) and now.step >= 10 and now, process, output)
        worker = psutil.Process(status.pid).parent()
        assert "ray::attend" in " ".join(worker.cmdline())
        for pid in (worker.pid, status.pid):  # as when the machine is turned off
            os.kill(pid, signal.SIGKILL)
        assert process.wait(timeout=PATIENCE) == 0, output.read_text()
    finally:
        process.kill()
        process.wait()
    assert read_study(folder).phase == "done"
    assert [run.state for run in list_runs(folder)] == ["finished", "finished"]
    assert read_status(lost[0]).pid != status.pid
    assert "resumed from the checkpoint after step" in (lost[0] / "log.txt").read_text()


def test_where_there_is_no_cluster_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OrthoLoraError, match=r"--ray needs the package ray: pip install 'ortho-lora\[ray\]'"):
        cluster_module.Cluster("local")
