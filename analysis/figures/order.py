"""Tasks in an order in which those that help each other stand side by side."""

from collections.abc import Iterable, Sequence

import numpy as np

FEWEST = 4
"""Tasks of which the order says anything."""


def side_by_side(tasks: Sequence[str], harms: Iterable[tuple[str, str, float]]) -> list[str]:
    """The leaves of average-linkage clusters of harm.

    Args:
        tasks: by name.
        harms: two tasks, and what one does to the other, below 0 help; those that are not there, or NaN, count as 0.
    """
    if len(tasks) < FEWEST:
        return list(tasks)
    from scipy.cluster import hierarchy  # slow to import
    from scipy.spatial.distance import squareform

    place = {task: index for index, task in enumerate(tasks)}
    harm = np.zeros((len(tasks), len(tasks)))
    for one, other, value in harms:
        if one != other and one in place and other in place and not np.isnan(value):
            harm[place[one], place[other]] += value / 2
            harm[place[other], place[one]] += value / 2
    if (largest := np.abs(harm).max()) == 0:
        return list(tasks)
    apart = 1 + harm / largest
    np.fill_diagonal(apart, 0)
    links = hierarchy.linkage(squareform(apart, checks=False), "average", optimal_ordering=True)
    return [tasks[index] for index in hierarchy.leaves_list(links)]
