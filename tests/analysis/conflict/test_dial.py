import json

import numpy as np
import pandas as pd
import pytest

from analysis.conflict.dial import answers
from analysis.figures.dial import dial_lines
from ortho_lora.errors import OrthoLoraError


@pytest.fixture
def dial(records, tmp_path):
    """Runs whose two gradients have a cosine of 1 - 2 rho, and the twin an accuracy of 1 - rho."""
    runs = {}
    for rho in (1.0, 0.0, 0.75):
        cosine = 1 - 2 * rho
        gradients = np.array([[1.0, 0.0], [cosine, np.sqrt(1 - cosine**2)]])
        halves = np.broadcast_to(gradients[:, None], (12, 2, 2, 2, 2, 2, 2))
        tables = records.gradient_tables(halves, ("movies", "twin"))
        tables["steps"] = pd.DataFrame(
            [
                {"step": step, "task": task, "loss": 1.0, "learning_rate": 1e-3, "seconds": 0.1, "order": order}
                for step in range(12)
                for order, task in enumerate(("movies", "twin"))
            ]
        )
        rows = [("movies", 0.75), ("twin", 1 - rho)]
        tables["metrics"] = pd.DataFrame(
            [
                {"step": 12, "split": "validation", "task": task, "metric": "accuracy", "value": value, "examples": 50}
                for task, value in rows
            ]
        )
        tasks = [records.task_info("movies"), records.task_info("twin", twin_of="movies")]
        info = records.run_info(f"dial-{rho}", tasks, method="joint", rule="sum")
        runs[rho] = records.write_run(tmp_path / f"dial-{rho}", info, records.status(), tables)
    return runs


def test_cosine_projection_and_metrics_answer(dial):
    found = answers(dial)
    once = found.drop_duplicates("rho")
    assert found["rho"].tolist() == [0, 0, 0.75, 0.75, 1, 1]
    np.testing.assert_allclose(found["cosine"], 1 - 2 * found["rho"], atol=1e-6)
    assert once["projected"].tolist() == [0, 1, 1]
    # sqrt(3) / 2 of a gradient is left where the cosine is -1/2
    np.testing.assert_allclose(once["removed"], [0, 1 - np.sqrt(3) / 2, 1], atol=1e-3)
    np.testing.assert_allclose(once["twin"], [1, 0.25, 0])
    np.testing.assert_allclose(once["original"], 0.75)


def test_figure_shows_all_and_marks_the_position(dial):
    figure = json.loads(dial_lines(answers(dial), 0.75).to_json())
    assert {trace["name"] for trace in figure["data"]} == {
        "1 - 2ρ", "cosine on branch A", "cosine on branch B", "gradients projected", "norm removed", "the task",
        "its twin",
    }  # fmt: skip
    assert {shape["x0"] for shape in figure["layout"]["shapes"]} == {0.75}


def test_runs_of_other_tasks_are_refused_in_words(records, tmp_path):
    info = records.run_info("other", [records.task_info("trec"), records.task_info("movies")])
    run = records.write_run(tmp_path / "other", info, records.status(), {})
    with pytest.raises(OrthoLoraError, match="expected a task and its twin, found trec, movies"):
        answers({0.0: run})


def test_no_runs_are_an_empty_frame():
    assert answers({}).empty
