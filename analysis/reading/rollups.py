"""Cells: sums over rows of a record, from its roll-ups where these tell them and from the rows elsewhere.

A question over a long run reads the roll-ups for whole bins of steps and the rows for what is left at their edges, so
that any range of steps is answered exactly. `pair_cells` has the columns of `rollup/pairs_*`, but for those that need
norms, which `joint_cells` has as well; `norm_cells` has those of `rollup/norms_*`.
"""

from dataclasses import dataclass
from typing import Literal

from ortho_lora.record.manifest import Bins, Manifest
from ortho_lora.record.tables import BINS_TOGETHER, SNAPSHOTS_BY_LAYER

Level = Literal["by_step", "by_layer", "by_block"]
Steps = tuple[int, int]  # inclusive

RAW_ROWS = 2_000_000
"""Rows up to which a question reads the rows themselves, and so tells of every single step."""

SNAPSHOT_CELLS = "snapshot_cells"
"""The view on `snapshots`, or on their sums over the modules of a layer where no modules are chosen."""

TABLE_OF = {"pair_cells": "pairs", "joint_cells": "pairs", "norm_cells": "norms"}

_PAIR = """
    step, step AS step_end, layer, module, branch, task_i, task_j,
    CAST(cos_before IS NOT NULL AS INTEGER) AS measured, CAST(cos_before < 0 AS INTEGER) AS conflicts,
    CAST(cos_after IS NOT NULL AS INTEGER) AS measured_after, CAST(cos_after < 0 AS INTEGER) AS conflicts_after,
    CAST(projected_ij AND cos_before IS NOT NULL AS INTEGER) AS projected_ij,
    CAST(projected_ji AND cos_before IS NOT NULL AS INTEGER) AS projected_ji,
    CAST(cos_before AS DOUBLE) AS cosines, CAST(cos_before AS DOUBLE) ** 2 AS cosine_squares,
    CAST(cos_after AS DOUBLE) AS cosines_after,
    CASE WHEN projected_ij THEN CAST(-cos_before AS DOUBLE) END AS removed_ij,
    CASE WHEN projected_ji THEN CAST(-cos_before AS DOUBLE) END AS removed_ji,
    cos_before AS cosine_low, cos_before AS cosine_high
"""
RAW = {  # the same from the rows, a row a cell
    "pair_cells": f"SELECT {_PAIR} FROM pairs",
    "joint_cells": f"""
        WITH of AS (
            SELECT step, layer, module, branch, task,
                CAST(norm_before AS DOUBLE) AS n, CAST(half_product AS DOUBLE) AS h
            FROM norms
        )
        SELECT pairs.*, i.n AS n_i, j.n AS n_j, i.h IS NOT NULL AND j.h IS NOT NULL AS both_halved,
            coalesce(cosines, 0) * n_i * n_j AS inner_product, n_i ** 2 AS square_i, n_j ** 2 AS square_j,
            CASE WHEN measured = 1 THEN 2 * n_i * n_j / nullif(square_i + square_j, 0) END AS similarity,
            CAST(both_halved AS INTEGER) AS halved,
            CASE WHEN both_halved THEN coalesce(inner_product, 0) END AS product,
            CASE WHEN both_halved THEN i.h END AS half_i, CASE WHEN both_halved THEN j.h END AS half_j
        FROM (SELECT {_PAIR} FROM pairs) AS pairs
            LEFT JOIN of AS i ON i.step = pairs.step AND i.layer = pairs.layer AND i.module = pairs.module
                AND i.branch = pairs.branch AND i.task = task_i
            LEFT JOIN of AS j ON j.step = pairs.step AND j.layer = pairs.layer AND j.module = pairs.module
                AND j.branch = pairs.branch AND j.task = task_j
        """,
    "norm_cells": """
        SELECT step, step AS step_end, layer, module, branch, task,
            CAST(norm_before IS NOT NULL AS INTEGER) AS reached, CAST(norm_before > 0 AS INTEGER) AS with_gradient,
            CAST(half_product IS NOT NULL AS INTEGER) AS halved,
            CAST(norm_before AS DOUBLE) AS norms, CAST(norm_after AS DOUBLE) AS norms_after,
            CASE WHEN norm_before > 0 THEN 1 - CAST(norm_after AS DOUBLE) / norm_before END AS removed,
            CASE WHEN norm_before IS NOT NULL THEN CAST(weight AS DOUBLE) END AS weights,
            CAST(norm_before AS DOUBLE) ** 2 AS squares, CAST(half_product AS DOUBLE) AS half,
            2 * CAST(norm_before AS DOUBLE) ** 2 - half_product AS whole, norm_before AS norm_high
        FROM norms
        """,
}


def snapshot_source(manifest: Manifest, *, whole_layers: bool) -> str:
    """The table or roll-up that `snapshot_cells` reads: cells to be summed over, by layer or by block."""
    rows, rolled = manifest.of("snapshots"), manifest.of(SNAPSHOTS_BY_LAYER)
    tells_all = bool(rolled) and (not rows or max(of.last for of in rolled) >= max(of.last for of in rows))
    return SNAPSHOTS_BY_LAYER if whole_layers and tells_all else "snapshots"


@dataclass(frozen=True)
class Plan:
    """Which steps are read from where."""

    rollup: str
    rolled: Steps | None
    raw: tuple[Steps, ...]
    bins: Bins  # of the cells; of width 1 where each is of one step


def plan(manifest: Manifest, table: str, level: Level, steps: Steps | None) -> Plan:
    """How to answer a question on `steps` of `pairs` or `norms` at a level."""
    rollup = f"rollup/{table}_{level}"
    rows, parts = manifest.of(table), manifest.of(rollup)
    single = Bins(first=0, width=1)
    if not rows:
        return Plan(rollup, None, (), single)
    first, last = min(part.first for part in rows), max(part.last for part in rows)
    if steps is not None:
        first, last = max(first, steps[0]), min(last, steps[1])
    if first > last:
        return Plan(rollup, None, (), single)
    if not parts:
        return Plan(rollup, None, ((first, last),), single)
    covered = max(part.last for part in parts)
    if level == "by_step":
        bins, begin, end = single, first, min(last, covered)
    else:
        few = sum(part.rows for part in rows if part.first <= last and part.last >= first) <= RAW_ROWS
        if few or manifest.bins is None:
            return Plan(rollup, None, ((first, last),), single)
        bins = Bins(first=manifest.bins.first, width=manifest.bins.width * BINS_TOGETHER[level])
        begin = bins.start(first + bins.width - 1)
        end = covered if last >= covered else bins.start(last + 1) - 1
    if begin > end:
        return Plan(rollup, None, ((first, last),), single)
    edges = tuple(edge for edge in ((first, begin - 1), (end + 1, last)) if edge[0] <= edge[1])
    return Plan(rollup, (begin, end), edges, bins)
