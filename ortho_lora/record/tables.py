"""The tables of a record: columns, types and meanings. Importable without torch.

`TABLES` hold what was measured, a row a measurement. `ROLLUPS` hold sums over such rows, so that an overview of a long
run reads little: `by_step` over all blocks in one step; `by_layer` over the modules of a layer in a bin of steps;
`by_block` each block over a wider bin. A mean is a sum over a count; several rows may tell of the same cell: add them.
"""

from typing import Literal

import pyarrow as pa

_name = pa.dictionary(pa.int32(), pa.string())

Column = tuple[str, pa.DataType, str]
Event = Literal["dropped", "nonfinite", "skipped"]


def _table(*columns: Column) -> pa.Schema:
    return pa.schema([pa.field(name, dtype, metadata={"meaning": meaning}) for name, dtype, meaning in columns])


_LAYER: Column = (
    "layer",
    pa.int16(),
    "index of the transformer layer; with several stacks 1000 x stack + index; -1: none",
)
_MODULE: Column = ("module", _name, "adapted linear layer within its layer, as in `query`")
_BRANCH: Column = ("branch", _name, "LoRA matrix: `A` or `B`")
_BLOCK = (("step", pa.int32(), "optimizer step, from 0"), _LAYER, _MODULE, _BRANCH)
_TASK: Column = ("task", _name, "task")
_PAIR: tuple[Column, ...] = (
    ("task_i", _name, "first task of the unordered pair, in configuration order"),
    ("task_j", _name, "second task of the pair"),
)

_PLACE: tuple[Column, ...] = (
    ("step", pa.int32(), "optimizer steps done before the snapshot"),
    ("metric", _name, "`plain`, or `adamw`: products weighted, coordinate by coordinate, as AdamW does"),
    ("target", pa.bool_(), "task_i's gradient is that of held-out texts, in evaluation mode"),
)
_PLACE_OF_TASK = (_PLACE[0], ("target", pa.bool_(), "of held-out texts, in evaluation mode; else of those of training"))
_SNAPSHOT_PAIR: tuple[Column, ...] = (
    ("task_i", _name, "first task of the pair, in configuration order; task_j itself in its own square"),
    ("task_j", _name, "second task of the pair; of a target any task"),
)
_PRODUCT: tuple[Column, ...] = (
    ("group", pa.int16(), "group of texts that is left out, or beyond them a draw of the sketch's error; null: none"),
    (
        "product",
        pa.float64(),
        "mean product of the two tasks' gradients over all pairs of different groups; of a target over all pairs; null"
        " where one has texts in fewer than 8",
    ),
)

TABLES: dict[str, pa.Schema] = {
    "pairs": _table(
        *_BLOCK,
        *_PAIR,
        ("cos_before", pa.float32(), "cosine of the two tasks' gradients; null where a gradient is zero or missing"),
        ("cos_after", pa.float32(), "the same after the rule; null where a gradient is zero or missing"),
        ("projected_ij", pa.bool_(), "task_i's gradient was projected onto the normal plane of task_j's"),
        ("projected_ji", pa.bool_(), "task_j's gradient was projected onto the normal plane of task_i's"),
    ),
    "norms": _table(
        *_BLOCK,
        _TASK,
        (
            "norm_before",
            pa.float32(),
            "Euclidean norm of the task's gradient on the block; null where the task did not reach it",
        ),
        ("norm_after", pa.float32(), "its norm after the rule"),
        ("half_product", pa.float32(), "<g^a, g^b> of the gradients of the batch's two halves; null if not split"),
        ("weight", pa.float32(), "effective task weight w_j = sum_i C_ij of the gradient in the update"),
    ),
    "steps": _table(
        ("step", pa.int32(), "optimizer step, from 0"),
        _TASK,
        (
            "loss",
            pa.float32(),
            "mean loss of the task's batch, before the step, without the loss weight, be it finite or not; null if not"
            " known",
        ),
        ("learning_rate", pa.float64(), "learning rate of the adapter in this step; null if not known"),
        ("seconds", pa.float32(), "wall-clock time of the whole step; `train`: without evaluation"),
        ("order", pa.int16(), "place of the task in the step's order of projection, from 0; -1: mean over all orders"),
    ),
    "events": _table(
        ("step", pa.int32(), "optimizer step, from 0, that it happened in"),
        (
            "event",
            _name,
            "`dropped`: a pass of it did not end, and what there was of it was left out; `nonfinite`: a loss or a"
            " gradient of it was not finite; `skipped`: it changed nothing for that",
        ),
        ("task", _name, "task whose pass, loss or gradient it was; null where of no task or of all"),
        ("reason", _name, "what happened, in words"),
    ),
    "metrics": _table(
        ("step", pa.int32(), "optimizer steps done before the evaluation"),
        ("split", _name, "evaluation split, as in `validation`"),
        _TASK,
        ("metric", _name, "scikit-learn metric, or `loss`"),
        ("value", pa.float64(), "its value"),
        ("examples", pa.int32(), "number of examples it was computed on"),
    ),
    "snapshots": _table(*_PLACE, _LAYER, _MODULE, _BRANCH, *_SNAPSHOT_PAIR, *_PRODUCT),
    "snapshot_tasks": _table(
        *_PLACE_OF_TASK,
        _TASK,
        ("batches", pa.int32(), "number of batches whose gradients were multiplied"),
        ("groups", pa.int16(), "number of groups of texts that they are of"),
        ("loss", pa.float64(), "mean loss over these batches"),
        ("exact", pa.bool_(), "sums of gradients were kept as they are; false: as sketches"),
        ("of_optimizer", pa.bool_(), "`adamw` is the metric of the optimizer; false: of the snapshot's own squares"),
    ),
    "vectors": _table(
        _PLACE[0],
        (
            "kind",
            _name,
            "`gradient`: mean of the task's batches of a group; `held out`: the same of held-out texts; `deviation`:"
            " standard deviation of its batches; `rate`: learning rate times the coordinates that each stands for;"
            " `eps`: of AdamW; `past`: its step sizes by those of gradients which had always been these",
        ),
        ("task", _name, "task; null where of none"),
        ("group", pa.int16(), "group of texts; null where of none"),
        ("values", pa.list_(pa.float32()), "at coordinates chosen at random, the same in all rows of a snapshot"),
    ),
    "texts": _table(
        _PLACE[0],
        ("source", _name, "task whose mean gradient alone the step follows"),
        ("target", _name, "task that the text is of"),
        ("example", pa.int32(), "place of the text in the target's validation split, as in `predictions`"),
        ("text", _name, "the text, or both of a pair; of a long one the beginning"),
        ("label", _name, "its class, or number"),
        ("loss", pa.float32(), "its loss where the snapshot was taken, nats"),
        ("nats", pa.float32(), "that its loss moves by in such a step, to first order; above 0 it harms"),
    ),
    "lookahead": _table(
        ("step", pa.int32(), "optimizer steps done before the lookahead"),
        ("draw", pa.int16(), "draw of batches, from 0"),
        ("source", _name, "task that was left out; null: none was, and the value is of all steps against none"),
        ("target", _name, "task whose held-out loss was evaluated"),
        (
            "part",
            _name,
            "`difference`: loss after the steps with the source minus without it; of the loss f around where the steps"
            " began, with d, how much further the source moved the parameters, `odd`: (f(+d) - f(-d)) / 2, by the"
            " gradient of f, and `even`: (f(+d) + f(-d)) / 2 - f(0)",
        ),
        ("value", pa.float64(), "nats"),
        ("error", pa.float64(), "standard error of the value over the target's examples, the same in all draws"),
        ("examples", pa.int32(), "number of these"),
    ),
    "predictions": _table(
        ("step", pa.int32(), "optimizer steps done before the evaluation, which is the last of the run"),
        ("split", _name, "evaluation split, as in `validation`"),
        _TASK,
        ("example", pa.int32(), "place of the example in the whole split, the same in every run on this data"),
        ("target", pa.float32(), "index of its class, or the number to predict"),
        ("prediction", pa.float32(), "index of the predicted class, or the predicted number"),
    ),
}

PAIR_COUNTS: tuple[Column, ...] = (
    ("measured", pa.int32(), "number of cosines before"),
    ("conflicts", pa.int32(), "of them negative"),
    ("measured_after", pa.int32(), "number of cosines after the rule"),
    ("conflicts_after", pa.int32(), "of them negative"),
    ("projected_ij", pa.int32(), "measured cosines where task_i's gradient was projected against task_j's"),
    ("projected_ji", pa.int32(), "measured cosines where task_j's gradient was projected against task_i's"),
    ("halved", pa.int32(), "blocks and steps where both tasks' batches were halved"),
)
PAIR_SUMS: tuple[Column, ...] = (
    ("cosines", pa.float32(), "sum of cos_before"),
    ("cosine_squares", pa.float32(), "sum of its squares"),
    ("cosines_after", pa.float32(), "sum of cos_after"),
    ("removed_ij", pa.float32(), "sum of -cos_before where task_i's gradient was projected against task_j's"),
    ("removed_ji", pa.float32(), "sum of -cos_before where task_j's gradient was projected against task_i's"),
    ("similarity", pa.float32(), "sum of 2 n_i n_j / (n_i^2 + n_j^2) of the norms, where a cosine was measured"),
    ("product", pa.float64(), "sum of <g_i, g_j>, where both were halved"),
    ("half_i", pa.float64(), "sum of task_i's half products, where both were halved"),
    ("half_j", pa.float64(), "sum of task_j's half products, where both were halved"),
)
PAIR_SQUARES: tuple[Column, ...] = (  # of whole models only, so in `by_step`
    ("inner_product", pa.float64(), "sum of <g_i, g_j>"),
    ("square_i", pa.float64(), "sum of task_i's squared norms"),
    ("square_j", pa.float64(), "sum of task_j's squared norms"),
)
PAIR_EXTREMES: tuple[Column, ...] = (
    ("cosine_low", pa.float32(), "least cos_before"),
    ("cosine_high", pa.float32(), "greatest cos_before"),
)
NORM_COUNTS: tuple[Column, ...] = (
    ("reached", pa.int32(), "blocks and steps that the task reached"),
    ("with_gradient", pa.int32(), "of them with a norm above 0"),
    ("halved", pa.int32(), "number of half products"),
)
NORM_SUMS: tuple[Column, ...] = (
    ("norms", pa.float32(), "sum of norm_before"),
    ("norms_after", pa.float32(), "sum of norm_after"),
    ("removed", pa.float32(), "sum of 1 - norm_after / norm_before, where norm_before is above 0"),
    ("weights", pa.float32(), "sum of the effective weights"),
    ("squares", pa.float64(), "sum of norm_before^2"),
    ("half", pa.float64(), "sum of the half products"),
    ("whole", pa.float64(), "sum of 2 norm_before^2 - half_product, which is (|g^a|^2 + |g^b|^2) / 2, where halved"),
)
NORM_EXTREMES: tuple[Column, ...] = (("norm_high", pa.float32(), "greatest norm_before"),)

_BIN: tuple[Column, ...] = (
    ("step", pa.int32(), "first step of the bin"),
    ("step_end", pa.int32(), "last step of the bin"),
)
BINS_TOGETHER = {"by_layer": 1, "by_block": 8}
"""Bins (`manifest.Bins`) that make one of the level; there are many more blocks than layers."""

_PLACES: dict[str, tuple[Column, ...]] = {  # what the cells of a level are told apart by, beside steps and tasks
    "by_step": (_BRANCH,),
    "by_layer": (_LAYER, _BRANCH),
    "by_block": (_LAYER, _MODULE, _BRANCH),
}
_PAIR_VALUES = (*PAIR_COUNTS, *PAIR_SUMS, *PAIR_EXTREMES)

SNAPSHOTS_BY_LAYER = "rollup/snapshots_by_layer"
"""Sums of products over the modules of a layer; a snapshot's are written with its rows."""

ROLLUPS: dict[str, pa.Schema] = {
    f"rollup/{table}_{level}": _table(*_BIN, *places, *names, *values)
    for level, places in _PLACES.items()
    for table, names, values in (
        ("pairs", _PAIR, (*_PAIR_VALUES, *PAIR_SQUARES) if level == "by_step" else _PAIR_VALUES),
        ("norms", (_TASK,), (*NORM_COUNTS, *NORM_SUMS, *NORM_EXTREMES)),
    )
} | {SNAPSHOTS_BY_LAYER: _table(*_PLACE, _LAYER, _BRANCH, *_SNAPSHOT_PAIR, *_PRODUCT)}

SCHEMAS = TABLES | ROLLUPS
