"""The Study page: none, one that goes on, finished, broken, and several to choose from."""

import json

import numpy as np
import pytest

from ortho_lora.record.study import FILE_NAME, Advice, Predicted


@pytest.fixture
def maker(studies, records, runs_dir):
    """Of a study that is the runs directory itself."""
    return studies.Maker(records, runs_dir)


def words(test):
    kinds = [test.markdown, test.info, test.error, test.warning, test.caption, test.subheader, test.code]
    return "\n".join(element.value for kind in kinds for element in kind).replace("\\", "")


def figures(test):
    return [json.loads(element.proto.spec) for element in test.get("plotly_chart")]


def test_without_a_study_the_page_says_how_to_make_one(runs_dir, open_page):
    test = open_page("study")
    assert not test.exception
    assert "There is no study here yet." in words(test)
    assert "python -m ortho_lora study quick" in words(test)
    assert not runs_dir.exists()


def test_a_finished_study_is_told_top_down(maker, studies, open_page):
    studies.three_methods(maker).write()
    test = open_page("study")
    assert not test.exception
    text = words(test)
    assert "Does projection help?" in text
    assert "ortho-lora is 3.1 points above joint" in text
    headings = [element.value for element in test.subheader]
    assert headings == [
        "Final metrics", "Better than joint?", "Gap recovery", "At equal seconds", "Cost", "Conflict", "Was it fair?",
        "Runs",
    ]  # fmt: skip
    assert len(figures(test)) == 2
    assert "nothing was tuned" in text


def test_a_study_of_advice_shows_what_came_of_it(maker, studies, open_page):
    promised = Predicted(gain=-0.02, low=-0.03, high=-0.01)
    advice = Advice(
        run="mine", adapters=2, advised="ortho-lora", groups="ortho-lora", predicted={"ortho-lora": promised}
    )
    studies.three_methods(maker, metric="loss", predictions=False).write(advice=advice)
    test = open_page("study")
    assert not test.exception
    assert "Advice of run mine: 2 adapters, ortho-lora, promised -20 mnat a step" in words(test)
    assert "The advice, and what came of it" in [element.value for element in test.subheader]
    frame = next(of.value for of in test.dataframe if "predicted" in of.value)
    assert frame.set_index("method")["predicted"].to_dict() == pytest.approx(
        {"single": np.nan, "ortho-lora": -20.0}, nan_ok=True
    )


def test_runs_of_the_runs_directory_itself_can_be_looked_into(maker, studies, open_page):
    studies.three_methods(maker, seeds=(0,)).write(seeds=(0,))
    test = open_page("study")
    assert test.selectbox(key="study-run").options == ["single-s0", "joint-s0", "ortho-lora-s0"]
    test.selectbox(key="study-run").set_value("joint-s0").run()
    assert not test.exception
    assert test.session_state["run"] == "joint-s0"


def test_a_study_that_goes_on_shows_what_there_is(maker, studies, open_page):
    studies.three_methods(maker)
    maker.add("pcgrad", 0, {"movies": 0.7}, state="running")
    maker.add("pcgrad", 1, {"movies": 0.7}, state="failed")
    maker.add("pcgrad", 2, {"movies": 0.7}, state="waiting")
    maker.write(phase="reporting")
    test = open_page("study")
    assert not test.exception
    assert "Not all is there: 9 of 12 planned runs have finished, 1 failed or are lost." in words(test)
    missing = next(table.value for table in test.dataframe if "state" in table.value and len(table.value) == 3)
    assert missing["state"].tolist() == ["running", "failed", "waiting"]


def test_nothing_has_finished(maker, open_page):
    maker.add("joint", 0, {"movies": 0.7}, state="waiting")
    maker.write(phase="tuning")
    test = open_page("study")
    assert not test.exception
    assert "No run that results are told of has finished yet." in words(test)


def test_a_broken_study_is_one_sentence(runs_dir, open_page):
    runs_dir.mkdir()
    (runs_dir / FILE_NAME).write_text("{}")
    test = open_page("study")
    assert not test.exception
    assert "cannot be read as a study" in test.error[0].value.replace("\\", "")


def test_one_of_several_is_chosen_in_the_address(studies, records, runs_dir, open_page):
    for name, title in (("one", "First?"), ("two", "Second?")):
        studies.three_methods(studies.Maker(records, runs_dir / name), seeds=(0,)).write(title=title, seeds=(0,))
    assert "First?" in words(open_page("study"))
    test = open_page("study", study="two")
    assert "Second?" in words(test)
    assert f"ORTHO_LORA_RUNS_DIR={runs_dir / 'two'}" in words(test)
    assert "First?" in words(open_page("study", study="../elsewhere"))


def test_axes_have_a_figure_and_conditions_a_choice(maker, studies, open_page):
    studies.dialled(maker).write(axes={"rho": studies.DIAL})
    test = open_page("study", at="rho=1.0")
    assert not test.exception
    assert "Over rho" in words(test)
    assert test.selectbox(key="at").value == "rho=1.0"
    assert len(figures(test)) == 3
    recovery = next(table.value for table in test.dataframe if "in words" in table.value)
    assert recovery["in words"].iloc[0].startswith("recovers ")


def test_pairs_have_a_matrix_and_a_correlation(maker, studies, open_page):
    studies.with_pairs(maker, seeds=(0, 1)).write(seeds=(0, 1))
    test = open_page("study")
    assert not test.exception
    assert "Does measured conflict foretell measured harm?" in words(test)
    assert {trace["type"] for spec in figures(test) for trace in spec["data"]} == {"scatter", "heatmap"}


def test_names_are_shown_as_they_are(maker, records, open_page):
    for seed in (0, 1):
        maker.add("joint", seed, {records.HOSTILE[0]: 0.5})
        maker.add("*bold*", seed, {records.HOSTILE[0]: 0.6})
    maker.uses = [use.model_copy(update={"cell": use.cell}) for use in maker.uses]
    maker.write(seeds=(0, 1), title="**[x](https://example.org)**")
    test = open_page("study")
    assert not test.exception
    for element in [*test.markdown, *test.warning, *test.caption]:
        assert "**[x](" not in element.value
        assert "is *bold*" not in element.value
    for spec in figures(test):
        assert "<script>" not in json.dumps(spec["layout"])
