"""The playground by mouse, by touch and by keyboard, its mathematics against Python's, and links into the glossary."""

import itertools
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from browsing import go_to, settled
from playwright.sync_api import expect
from waiting import wait_for

from analysis.conflict.rules import RULES, after, project
from ortho_lora.record.schema import read_status

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
PLAYGROUND = ROOT / "app" / "playground"
QUESTIONS = 8


def go_to_learn(page):
    go_to(page, "Learn")
    expect(page.get_by_role("slider", name="Gradient A")).to_be_visible()


@pytest.fixture
def page(tabs, server):
    """The Learn page, reached as a person does; no errors, and no request that leaves the machine."""
    with tabs.watched(server.address, viewport={"width": 1440, "height": 1000}) as page:
        page.goto(server.address)
        go_to_learn(page)
        yield page


def random_gram(rng, tasks):
    """Gradients of all kinds: in a plane or a space, of like or very unlike lengths, opposite, and zero."""
    gradients = rng.standard_normal((tasks, rng.integers(1, 4))) * 10.0 ** rng.integers(-3, 3, (tasks, 1))
    if rng.random() < 0.1:
        gradients[1] = -2 * gradients[0]
    if rng.random() < 0.1:
        gradients[rng.integers(tasks)] = 0
    return gradients @ gradients.T


def test_every_rule_of_python_is_offered(page):
    offered = page.locator('[data-part="rule"] option').evaluate_all("options => options.map(option => option.value)")
    assert offered == list(RULES)


def test_rules_are_those_of_python(browser):
    rng = np.random.default_rng(0)
    cases = []
    for tasks in (2, 3):
        every = list(itertools.permutations(range(tasks)))
        for orders in [*([one] for one in every), every]:
            for rule in RULES:
                cases += [(random_gram(rng, tasks).tolist(), rule, orders, rng.uniform(-0.9, 0.9)) for _ in range(30)]
    page = browser.new_page()
    script = (PLAYGROUND / "rules.js").read_text()
    results = page.evaluate(
        f"""cases => {{ {script}
            return cases.map(([gram, rule, orders, goal]) => {{
                const {{ coefficients, projected }} = project(gram, rule, orders, goal);
                return [coefficients, projected, after(gram, coefficients), effects(gram, coefficients)];
            }});
        }}""",
        cases,
    )
    page.close()
    seen = 0
    for (gram, rule, orders, goal), found in zip(cases, results, strict=True):
        gram = np.array(gram)
        targets = np.full((1, *gram.shape), goal)
        coefficients, projected, _ = project(gram[None, None], rule, np.array(orders)[:, None], targets)
        coefficients, projected = coefficients[0, 0], projected[0, 0]
        length = np.sqrt(np.diagonal(gram))
        scale = np.where(length[None] > 0, length[None], 1) / np.where(length[:, None] > 0, length[:, None], 1)
        np.testing.assert_allclose(np.array(found[0]) * scale, coefficients * scale, atol=1e-9)
        np.testing.assert_array_equal(found[1], projected)
        norms, cosines = after(gram, coefficients)
        np.testing.assert_allclose(found[2]["norms"], norms, atol=1e-7 * max(length.max(), 1e-9))
        shown = np.array(found[2]["cosines"], dtype=float)
        both = np.isfinite(shown) & np.isfinite(cosines)
        np.testing.assert_allclose(shown[both], cosines[both], atol=1e-6)
        assert (np.isnan(shown) == np.isnan(cosines)).all()
        weights = coefficients.sum(axis=0)
        np.testing.assert_allclose(found[3]["weights"], weights, rtol=1e-9, atol=1e-9 * np.abs(weights).max())
        np.testing.assert_allclose(found[3]["falls"], gram @ weights, atol=1e-9 * np.abs(gram).max() * len(gram) ** 2)
        seen += bool(projected.any())
    assert seen > len(cases) / 4


def cells(page, table):
    """The texts of the first row of a table."""
    return page.locator(f'[data-part="{table}"] tbody tr').first.locator("th, td").all_inner_texts()


def centre(handle):
    box = handle.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_arrows_are_dragged_and_all_numbers_follow(page):
    assert [text.split() for text in cells(page, "pairs")][1:] == [
        ["130°"],
        ["−0.64", "conflict"],
        ["+0.64", "agreement"],
    ]
    handle = page.get_by_role("slider", name="Gradient B")
    handle.scroll_into_view_if_needed()
    x, y = centre(handle)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 150, y - 20, steps=5)
    page.mouse.move(x + 260, y - 20, steps=5)
    page.mouse.up()
    pair = [text.split() for text in cells(page, "pairs")]
    assert pair[2][1] == "agreement"
    assert pair[3] == pair[2]  # nothing is projected
    assert page.locator(".removed").count() == 1  # of the legend
    assert "The update is 1.00 A + 1.00 B" in page.locator('[data-part="weights"]').inner_text()


def test_arrows_are_dragged_by_touch_and_the_page_stays(browser, server):
    context = browser.new_context(viewport={"width": 820, "height": 1180}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(f"{server.address}/learn")
    handle = page.get_by_role("slider", name="Gradient A")
    expect(handle).to_be_visible()
    page.wait_for_timeout(1500)
    page.evaluate("() => document.addEventListener('pointercancel', () => document.body.classList.add('lost'), true)")
    x, y = centre(handle)
    fingers = context.new_cdp_session(page)  # as the screen reports a finger, so that the browser may scroll or drag

    def touch(kind, *place):
        points = [{"x": place[0], "y": place[1]}] if place else []
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", x, y)
    for part in range(1, 9):
        touch("touchMove", x - 12 * part, y + 9 * part)
    assert centre(handle) == pytest.approx((x - 96, y + 72), abs=12)  # under the finger
    touch("touchEnd")
    assert page.locator("body.lost").count() == 0  # to scrolling
    touch("touchStart", x, y + 150)
    touch("touchMove", x, y + 50)
    touch("touchMove", x, y - 150)
    touch("touchEnd")
    expect(page.locator("body.lost")).to_have_count(1)  # beside the arrows a finger scrolls
    context.close()


def test_arrows_are_moved_with_the_keyboard_and_told_aloud(page):
    handle = page.get_by_role("slider", name="Gradient B")
    page.get_by_role("slider", name="Gradient A").focus()
    page.keyboard.press("Tab")
    expect(handle).to_be_focused()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    # from 0.8 at 130 degrees, 12 steps of 0.05 to the right
    x, y = 0.8 * np.cos(np.radians(130)) + 0.6, 0.8 * np.sin(np.radians(130))
    expect(handle).to_have_attribute(
        "aria-valuetext", f"length {np.hypot(x, y):.2f}, angle {np.degrees(np.arctan2(y, x)):.0f} degrees"
    )
    said = page.locator('[data-part="said"]')
    expect(said).to_contain_text(f"A and B: cosine +{x / np.hypot(x, y):.2f}, agreement")
    page.keyboard.press("Shift+ArrowUp")
    expect(handle).to_be_focused()


def test_order_and_rule_matter_with_three(page):
    page.get_by_role("button", name="three ways").click()
    assert page.locator('[data-part="order"] option').count() == 7
    expect(page.get_by_role("slider", name=re.compile("Gradient"))).to_have_count(3)

    def shown():
        return page.locator('[data-part="pairs"] tbody td').all_inner_texts()

    first = shown()
    assert any("conflict" in text for text in first[2::3])  # some remain
    page.locator('[data-part="order"]').select_option("CBA")
    second = shown()
    page.locator('[data-part="order"]').select_option("mean")
    third = shown()
    page.locator('[data-part="rule"]').select_option("pcgrad-inplace")
    assert len({tuple(numbers) for numbers in (first, second, third, shown())}) == 4
    page.locator('[data-part="rule"]').select_option("gradvac")
    expect(page.locator('[data-part="goal"]')).to_be_visible()
    page.locator('[data-part="rule"]').select_option("sum")
    assert shown()[2::3] == shown()[1::3]
    assert (
        page.locator('[data-part="drawing"] .harm').count() == 0
        or "rises" in page.locator('[data-part="effects"]').inner_text()
    )


def test_questions_hide_the_answer_until_it_is_given(page):
    page.get_by_role("button", name="Start").click()
    right = ["both", "0", "+0.64", None, "it rises", "no", "no, some remain", "nothing"]
    for number, answer in enumerate(right, 1):
        expect(page.get_by_text(f"{number} of {QUESTIONS}")).to_be_visible()
        if answer is None:  # try
            handle = page.get_by_role("slider", name="Gradient B")
            handle.focus()
            for _ in range(12):
                page.keyboard.press("ArrowRight")
            expect(page.get_by_text("There. Within 90°")).to_be_visible()
        else:
            assert page.locator('[data-part="drawing"] .update').count() == 0
            assert "?" in page.locator('[data-part="effects"]').inner_text()
            page.locator('[data-part="answers"]').get_by_text(answer, exact=True).click()
            expect(page.locator(".verdict")).to_contain_text("Right.")
            assert page.locator('[data-part="drawing"] .plain').count() + page.locator(".answers .right").count() >= 1
        page.get_by_role("button", name="Next").click()
    expect(page.get_by_text("Done: 7 of 7 predicted right.")).to_be_visible()


def test_a_wrong_prediction_is_told(page):
    page.get_by_role("button", name="Start").click()
    page.locator('[data-part="answers"]').get_by_text("neither").click()
    expect(page.locator(".verdict")).to_contain_text("Not so.")
    expect(page.locator('[data-part="answers"] .right')).to_have_text("both")


@pytest.fixture
def run(server, records):
    """A synthetic run in the server's directory, of three tasks with hostile names."""
    tasks = ("<b>movies</b>", '<img src="x" onerror="document.title=1">', "trec")
    tables = records.gradient_tables(np.random.default_rng(0).standard_normal((4, 2, 2, 2, 3, 2, 8)), tasks)
    info = records.run_info("made", [records.task_info(task) for task in tasks], created=time.time())
    return records.write_run(server.runs_dir / "made", info, records.status(), tables)


def test_a_real_step_is_loaded_and_its_names_are_text(run, page):
    page.get_by_text("Load from a run").click()
    page.get_by_text("Show gradients of").click()
    origin = page.locator('[data-part="origin"]')
    expect(origin).to_contain_text("Run made, step 3")
    cosine = float(re.search(r"cosine ([+-][\d.]+)", origin.inner_text())[1])
    assert cells(page, "pairs")[2].split()[0].replace("−", "-") == f"{cosine:+.2f}"
    expect(page.locator('[data-part="effects"]')).to_contain_text("B · trec")
    expect(page.locator('[data-part="effects"]')).to_contain_text('A · <img src="x" onerror="document.title=1">')
    assert "1" not in page.title()
    # A rerun of the page keeps what was moved.
    handle = page.get_by_role("slider", name=re.compile("Gradient B"))
    handle.focus()
    page.keyboard.press("ArrowUp")
    moved = handle.get_attribute("aria-valuetext")
    page.get_by_role("button", name="Look again").click()
    page.wait_for_timeout(1500)
    assert handle.get_attribute("aria-valuetext") == moved


def test_lesson_trains_goes_on_after_a_reload_and_pauses(page, server):
    page.get_by_role("button", name="Train the 7 runs").click()
    expect(page.get_by_text(re.compile("0 of 7 runs done.* lesson-dial-0"))).to_be_visible()
    page.goto(server.address)
    go_to_learn(page)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Train the 7 runs")).to_be_visible()
    status = wait_for(lambda: read_status(server.runs_dir / "lesson-dial-0"))
    os.kill(status.pid, signal.SIGTERM)
    wait_for(lambda: read_status(server.runs_dir / "lesson-dial-0").state == "stopped")
    assert [path.name for path in server.runs_dir.iterdir() if path.is_dir() and path.name[0] != "."] == [
        "lesson-dial-0"
    ]


@pytest.mark.parametrize("anchor", ["cosine", "replay"])
def test_link_of_a_tooltip_opens_at_its_term(anchor, tabs, server):
    with tabs.watched(server.address, deep_links=True, viewport={"width": 1280, "height": 800}) as page:
        page.goto(f"{server.address}/learn#{anchor}")
        expect(page.locator(f"#{anchor}")).to_be_in_viewport()
        page.wait_for_timeout(2000)
        expect(page.locator(f"#{anchor}")).to_be_in_viewport()


@pytest.mark.parametrize(("scheme", "background"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 21, 28)")])
def test_colours_follow_the_theme(scheme, background, tabs, server):
    with tabs.watched(server.address, deep_links=True, color_scheme=scheme) as page:
        page.goto(f"{server.address}/learn")
        text = page.locator(".playground")
        expect(text).to_be_visible()
        shade = [int(part) for part in re.findall(r"\d+", text.evaluate("e => getComputedStyle(e).color"))[:3]]
        assert (sum(shade) > 3 * 128) == (scheme == "dark")
        assert page.locator(".stApp").evaluate("e => getComputedStyle(e).backgroundColor") == background


def test_guesses_of_the_lesson_are_kept_by_the_browser(tabs, shipped):
    with tabs.watched(shipped.address, deep_links=True) as page:
        page.goto(f"{shipped.address}/learn")
        expect(page.get_by_text("0 of 6 answered")).to_be_visible()
        for guess in ("only B", "near -0.5"):
            settled(page)  # the answer to a guess moves what is below it
            radio = page.get_by_role("radio", name=guess)
            page.locator("label", has=radio).click()
            expect(radio).to_be_checked()
        expect(page.get_by_text("2 of 6 answered")).to_be_visible()
        page.wait_for_function(
            "() => Object.keys(JSON.parse(localStorage.getItem('ortho-lora-lesson') ?? '{}')).length === 2"
        )
        page.goto("about:blank")

        page.goto(f"{shipped.address}/learn")
        expect(page.get_by_text("2 of 6 answered")).to_be_visible()
        expect(page.get_by_text("Right: only B")).to_be_visible()
        expect(page.get_by_text("Not so: half of the texts")).to_be_visible()
        page.get_by_role("button", name="Start over").click()
        expect(page.get_by_text("0 of 6 answered")).to_be_visible()
        page.wait_for_function("() => localStorage.getItem('ortho-lora-lesson') === '{}'")

        # What the browser keeps may be of another version of the lesson, or nobody's.
        for kept in ('{"zero": "a choice that is gone", "gone": "too"}', "no JSON"):
            page.evaluate("kept => localStorage.setItem('ortho-lora-lesson', kept)", kept)
            page.reload()
            settled(page)
            expect(page.get_by_text("0 of 6 answered")).to_be_visible()
