"""Figures have room for their labels before plotly measures them: else it draws each a second time."""

from pathlib import Path

import plotly
import pytest

from analysis import figures, open_run
from analysis.conflict import queries
from analysis.conflict.queries import Selection
from analysis.figures.margins import room
from analysis.library.samples import DEMO, SAMPLES

pytestmark = pytest.mark.browser
SCRIPT = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
NEEDED = """
async drawn => {
    const {data, layout} = JSON.parse(drawn);
    layout.margin = {l: 10, r: 10, t: 44, b: 10};
    layout.width = 900;
    const place = document.body.appendChild(document.createElement('div'));
    await Plotly.newPlot(place, data, layout);
    const {l, r, b} = place._fullLayout._size;
    place.remove();
    return {l, r, b};
}
"""


def drawn():
    """Of the shipped demo run."""
    run, pair = SAMPLES / DEMO, ("spam", "spam-flip0.7")
    opened = open_run(run)
    yield "transfer", opened.transfer().figure
    yield "diagnosis", opened.diagnosis().figure
    yield "matrix", opened.conflicts().figure
    yield "layers", opened.layers().figure
    yield "strip", figures.layer_strip(queries.layer_by_layer(run, pair))
    yield "lines", figures.pair_lines(queries.pair_over_steps(run, pair, Selection()), pair)


def test_as_much_as_plotly_finds_and_hardly_more(browser):
    page = browser.new_page()
    page.set_content("<meta charset=utf-8><body>")
    page.add_script_tag(path=str(SCRIPT))
    for name, figure in drawn():
        needed, found = page.evaluate(NEEDED, figure.to_json()), room(figure)
        assert max(found.values()) > 0
        for side, least in needed.items():
            assert least - 0.5 <= max(found[side], 10) <= least + 32, (name, side)
    page.close()
