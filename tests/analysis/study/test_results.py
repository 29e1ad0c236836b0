"""What a study's runs are for, and which of them count."""

import pytest

from analysis.outcomes.boards import name_of
from analysis.study.results import WAITING, find_studies, planned_runs, read_results
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.study import FILE_NAME, Cell


def test_finished_runs_by_seed(finished):
    results = read_results(finished)
    assert results.conditions == ((),)
    assert results.methods(()) == ("single", "joint", "ortho-lora")
    assert {seed: run.run_id for seed, run in results.finished("joint", ()).items()} == {
        0: "joint-s0", 1: "joint-s1", 2: "joint-s2",
    }  # fmt: skip
    assert not results.active


def test_a_study_that_goes_on_gives_what_there_is(maker):
    for seed, state in enumerate(("finished", "failed", "waiting", "stopped")):
        maker.add("joint", seed, {"movies": 0.7}, state=state)
    results = read_results(maker.write(seeds=(0, 1, 2, 3), phase="reporting"))
    assert list(results.finished("joint", ())) == [0]
    assert planned_runs(results)["state"].tolist() == ["finished", "failed", WAITING, "stopped"]


def test_only_the_chosen_settings_and_the_seeds_of_the_study_count(maker):
    for rate in (0.1, 0.2):
        for seed in (0, 1, 7):
            maker.add("joint", seed, {"movies": 0.7}, candidate={"learning_rate": rate})
    maker.choose("joint", {"learning_rate": 0.2}, [0.6, 0.7])
    results = read_results(maker.write(seeds=(0, 1)))
    assert results.chosen(Cell(method="joint")) == {"learning_rate": 0.2}
    assert [run.run_id for run in results.finished("joint", ()).values()] == ["joint-0.2-s0", "joint-0.2-s1"]


def test_nothing_counts_before_the_choice(maker):
    for rate in (0.1, 0.2):
        maker.add("joint", 0, {"movies": 0.7}, candidate={"learning_rate": rate})
    results = read_results(maker.write(phase="tuning"))
    assert results.chosen(Cell(method="joint")) is None
    assert not results.finished("joint", ())


def test_a_run_that_is_of_use_twice_is_one_run(maker):
    for rho in ("0.0", "1.0"):
        maker.add("single", 0, {"movies": 0.8}, condition={"rho": rho})
    maker.uses[1] = maker.uses[1].model_copy(update={"run_id": maker.uses[0].run_id})
    results = read_results(maker.write(axes={"rho": ("0.0", "1.0")}))
    assert len(list(results.reported())) == 1
    assert len(planned_runs(results)) == 1
    assert [name_of(condition) for condition in results.conditions] == ["rho=0.0", "rho=1.0"]


def test_what_is_no_study_is_refused(tmp_path):
    with pytest.raises(OrthoLoraError, match="not a study"):
        read_results(tmp_path)
    (tmp_path / FILE_NAME).write_text("{")
    with pytest.raises(OrthoLoraError, match="cannot be read as a study"):
        read_results(tmp_path)


def test_studies_are_found_beside_runs_but_not_behind_links(finished, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "away").symlink_to(finished)
    assert find_studies(tmp_path) == {}
    assert list(find_studies(finished)) == ["."]
    assert find_studies(finished.parent) == {"study": finished}
    assert find_studies(tmp_path / "missing") == {}


def test_the_version_tells_of_ends_and_not_of_steps(maker, records):
    name = maker.add("joint", 0, {"movies": 0.7}, state="stopped")
    directory = maker.write()

    def version(state, step):
        (directory / name / "status.json").write_text(records.status(state, step=step).model_dump_json())
        return read_results(directory).version

    assert version("stopped", 1) == version("stopped", 3) != version("finished", 12)
