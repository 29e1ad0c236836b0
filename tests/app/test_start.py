"""The first page, with no run, one, several, a live one and a broken one."""

import pytest


def words(test):
    elements = [*test.markdown, *test.info, *test.error, *test.caption, *test.subheader]
    return "\n".join(element.value for element in elements)


def test_without_a_run_it_says_what_conflict_is_and_how_to_begin(runs_dir, open_page):
    test = open_page("start")
    assert not test.exception
    assert "Several tasks share one LoRA" in words(test)
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
    assert "Several tasks share one LoRA" in words(test)
    assert not test.get("plotly_chart")


def test_a_run_of_the_list_becomes_the_one_that_all_pages_show(add_run, open_page):
    add_run("older", created=1.0)
    add_run("newer", created=2.0)
    test = open_page("start")
    test.button(key="open-older").click().run()
    assert test.selectbox(key="run").value == "older"
    assert "Run **older**" in words(test)
