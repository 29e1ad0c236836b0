import re

import numpy as np
import pytest

from analysis.figures import theme
from analysis.figures.hatching import MOST, hatch


def lines(missing, **options):
    """Ends of the lines that are drawn, [lines, 2 ends, x and y]; of no line no shape."""
    figure = theme.panels(["one"], 1, 1)
    hatch(figure, 1, 1, missing, **options)
    if not figure.layout.shapes:
        return np.empty((0, 2, 2))
    (shape,) = figure.layout.shapes
    return np.array(re.findall(r"[ML]([-\d.e+]+),([-\d.e+]+)", shape.path), float).reshape(-1, 2, 2)


def test_what_is_measured_is_not_hatched():
    assert len(lines(np.zeros((3, 4), bool))) == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_lines_lie_in_their_cells(count):
    missing = np.zeros((3, 4), bool)
    missing[2, 1] = missing[0, 3] = True
    drawn = lines(missing, lines=count)
    assert len(drawn) == 2 * count
    middles = drawn.mean(axis=1)
    assert {tuple(cell) for cell in np.rint(middles).astype(int)} == {(1, 2), (3, 0)}
    corners = np.repeat([[3, 0], [1, 2]], count, axis=0)[:, None]
    assert (np.abs(drawn - corners) <= 0.5).all()


def test_columns_of_unequal_widths():
    drawn = lines(np.array([[False, True]]), edges=[0, 10, 40])
    np.testing.assert_allclose(drawn, [[[10, -0.5], [40, 0.5]]])


def test_of_very_many_cells_some_are_hatched_in_every_row_and_column():
    drawn = lines(np.ones((200, 250), bool))
    assert 0.5 * MOST <= len(drawn) <= MOST + 250
    cells = np.rint(drawn.mean(axis=1)).astype(int)
    assert set(cells[:, 0]) == set(range(250))
    assert set(cells[:, 1]) == set(range(200))
