"""How a study's tasks agreed under each method."""

import pandas as pd
import pytest

from analysis.study.conflicts import method_conflicts
from analysis.study.findings import find
from analysis.study.results import read_results
from analysis.study.tables import tables


def test_each_turn_of_the_dial_has_the_cosine_that_it_was_made_with(dialled_study, studies):
    found = method_conflicts(read_results(dialled_study))
    assert set(found["method"]) == {"joint", "ortho-lora"}  # no gradients meet in single-task runs
    assert len(found) == 2 * len(studies.DIAL)
    by_turn = found.groupby("condition")["cosine"].mean()
    made = [0.9 * (1 - 2 * float(rho)) for rho in studies.DIAL]
    assert by_turn.loc[[f"rho={rho}" for rho in studies.DIAL]].tolist() == pytest.approx(made, abs=0.05)
    assert found["corrected"].tolist() == pytest.approx(found["cosine"].tolist(), abs=0.02)  # twins share their noise
    assert set(found["seeds"]) == {3}


def test_means_are_those_of_the_raw_rows(finished):
    results = read_results(finished)
    shown = method_conflicts(results).set_index(["method", "task_i", "task_j"])
    for method in ("joint", "ortho-lora"):
        runs = results.finished(method, ()).values()
        raw = pd.concat([pd.read_parquet(run.path / "pairs") for run in runs])  # as many rows of each run
        for pair, rows in raw.groupby(["task_i", "task_j"], observed=True):
            told = shown.loc[(method, *pair)]
            projected = rows[["projected_ij", "projected_ji"]].to_numpy().mean()
            means = [rows["cos_before"].mean(), (rows["cos_before"] < 0).mean(), projected]
            assert told[["cosine", "conflict_rate", "projected"]].tolist() == pytest.approx(means)


def test_the_table_tells_of_the_baseline_and_of_what_projected(dialled_study):
    table = next(table for table in tables(find(dialled_study)) if table.title == "Conflict")
    at = {(row[0], row[1]): row[2:] for row in table.rows}
    pair, cosine, corrected, negative, projected = at["rho=1.0", "joint"]
    assert (pair, negative, projected) == ("movies, movies-flip1.0", "100%", "100%")
    assert [float(cosine), float(corrected)] == pytest.approx([-0.9, -0.9], abs=0.05)
