"""The page on projection: what it shows of a run that projects, and of one that does not."""

import json

import pytest


def headings(test):
    return [heading.value for heading in test.subheader]


def words(test):
    return "\n".join(element.value for element in [*test.markdown, *test.info, *test.caption])


def test_a_run_that_projects_shows_the_replay_last(add_run, open_page):
    add_run("only")
    test = open_page("projection")
    assert headings(test)[-1] == "What another rule or scope would have done"
    assert "What remains" in headings(test)
    assert "are negative before projection" in words(test).replace("\\", "")


def test_layers_and_the_update_are_folded_and_open_for_who_chose_layers(add_run, open_page, unfold):
    add_run("only")
    test = open_page("projection")
    count = len(test.get("plotly_chart"))
    for more, name in enumerate(("by-layer", "update"), 1):
        unfold(test, name)
        assert not test.exception
        assert len(test.get("plotly_chart")) == count + more
    assert "a weight above 1 means" in words(test)
    assert len(open_page("projection", layers="1").get("plotly_chart")) == count + 1


def test_a_joint_run_shows_the_replay_first_and_nothing_of_weights(add_run, open_page):
    add_run("only", method="joint", rule="sum")
    assert headings(open_page("projection")) == ["What another rule or scope would have done", "What remains"]


def test_replay_is_made_on_demand_and_marks_what_was_taken(add_run, open_page):
    add_run("only")
    test = open_page("projection")
    before = len(test.get("plotly_chart"))
    test.button(key="replay").click().run()
    assert not test.exception
    assert len(test.get("plotly_chart")) == before + 1
    shown = json.loads(test.get("plotly_chart")[-1].proto.spec)
    assert "<b>pcgrad @ block</b> (taken)" in shown["data"][0]["y"]
    assert "One step ahead only" in words(test)


@pytest.mark.parametrize(
    ("method", "rule", "scope", "taken"),
    [
        ("ortho-lora-a", "pcgrad", "block", "pcgrad @ block, A only"),
        ("pcgrad", "pcgrad", "model", "pcgrad @ model"),
        ("joint", "sum", "block", "sum"),
    ],
)
def test_the_method_of_the_run_is_found_among_the_replayed(method, rule, scope, taken, add_run, open_page):
    add_run("only", method=method, rule=rule, scope=scope)
    test = open_page("projection")
    test.button(key="replay").click().run()
    specs = [json.loads(element.proto.spec) for element in test.get("plotly_chart")]
    assert any(f"<b>{taken}</b> (taken)" in (trace.get("y") or []) for spec in specs for trace in spec["data"])


def test_directed_pairs_by_what_is_removed_are_in_the_address(add_run, open_page):
    add_run("only")
    test = open_page("projection", directed="How far")
    assert test.button_group(key="directed").value == "How far"
    bars = [json.loads(element.proto.spec)["layout"].get("coloraxis") for element in test.get("plotly_chart")]
    assert "share of the norm" in [bar["colorbar"]["title"]["text"] for bar in bars if bar]
