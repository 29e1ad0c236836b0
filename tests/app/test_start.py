"""The first page, with no run, one, several, a live one and a broken one."""

import json

import numpy as np
import pytest

from app.launching.launcher import Launch


def words(test):
    elements = [*test.markdown, *test.info, *test.error, *test.caption, *test.subheader]
    return "\n".join(element.value for element in elements)


def arrows(test):
    return json.loads(test.get("plotly_chart")[0].proto.spec)


def test_without_a_run_the_picture_is_the_shipped_one_and_says_so(runs_dir, open_page):
    test = open_page("start")
    assert not test.exception
    assert "the demo run that comes with this project" in words(test)
    assert "tweets against spam\\-flip0\\.7" in words(test)
    assert "make app" in words(test)
    assert not runs_dir.exists()  # looking writes nothing


def test_the_answer_is_that_of_the_chosen_run(add_run, open_page):
    add_run("older", created=1.0)
    add_run("newer", created=2.0)
    assert "Run **newer**" in words(open_page("start"))
    assert "Run **older**" in words(open_page("start", run="older"))


def test_noise_is_not_called_a_conflict(add_run, open_page):
    add_run("noise")
    test = open_page("start")
    headline = next(element.value for element in test.markdown if element.value.startswith("#### "))
    assert "not enough data" in headline


def test_arrows_stand_at_the_measured_angle(runs_dir, open_page):
    test = open_page("start")
    one, other = [trace for trace in arrows(test)["data"] if trace["mode"] == "lines+markers"][:2]
    cosine = one["x"][1] * other["x"][1] + one["y"][1] * other["y"][1]
    assert f"cosine {cosine:+.2f} (95% interval" in words(test).replace("\\", "")


@pytest.mark.parametrize("broken", ["run.json", "pairs"])
def test_a_broken_run_is_listed_and_another_answers(broken, add_run, open_page):
    add_run("good", created=1.0)
    run = add_run("broken", created=2.0)
    if broken == "run.json":
        (run / "run.json").write_text("{")
    else:
        for part in [*(run / "pairs").glob("*"), *(run / "rollup").glob("**/*.parquet")]:
            part.write_bytes(b"torn")
    test = open_page("start")
    assert not test.exception
    assert "Run **good**" in words(test)
    assert "broken" in [button.label for button in test.button]


def test_single_runs_have_no_pair_to_draw(add_run, open_page):
    add_run("alone", method="single", rule="sum")
    test = open_page("start")
    assert not test.exception
    assert "the demo run that comes with this project" in words(test)


def test_what_runs_now_is_said_with_its_progress(add_run, open_page):
    add_run("only", "running", {"step": 5, "total": 20, "eta_seconds": 7.0})
    test = open_page("start")
    progress = test.get("progress")[0].proto
    assert progress.value == 25
    assert "step 5 of 20, about 7 s left" in progress.text


def test_a_run_of_the_list_becomes_the_one_that_all_pages_show(add_run, open_page):
    add_run("older", created=1.0)
    add_run("newer", created=2.0)
    test = open_page("start")
    test.button(key="open-older").click().run()
    assert test.selectbox(key="run").value == "older"
    assert "Run **older**" in words(test)


def test_projection_leaves_neither_against_the_other():
    from analysis.figures import conflict_arrows

    figure = conflict_arrows(-0.6, ("a", "b"))
    vectors = [
        np.array([trace.x[1], trace.y[1]])
        for trace in figure.data
        if trace.mode == "lines+markers" and not trace.showlegend
    ]
    (one, other), total = vectors[:2], vectors[2]
    before = [np.array([trace.x[1], trace.y[1]]) for trace in figure.data if trace.mode == "lines+markers"][:2]
    assert one @ before[1] == pytest.approx(0)
    assert other @ before[0] == pytest.approx(0)
    assert total == pytest.approx(one + other)


def test_launches_that_do_not_record_yet_are_shown(runs_dir, open_page, monkeypatch):
    launches = [
        Launch("first", "starting", None, resumes=False, output=""),
        Launch("_second_", "queued", 1, resumes=False, output=""),
        Launch("third", "failed", None, resumes=False, output="error: no such file"),
    ]
    monkeypatch.setattr("app.launching.launcher.launches", lambda runs_dir: launches)
    test = open_page("start")
    assert not test.exception
    for said in ("▶ **first**: starting", "◌ **\\_second\\_**: queued, at place 1", "✕ **third**: failed"):
        assert said in words(test)
