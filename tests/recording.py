"""Recorders that have begun, and rows for them."""

from functools import cache

import numpy as np
from infos import INFO

from ortho_lora.record.recorder import Recorder
from ortho_lora.record.rows import PAIR_KEYS, Gradients, Layout


def begun(runs_dir):
    recorder = Recorder(runs_dir / "x", total=9, flush_rows=10, flush_seconds=1e9)
    recorder.begin(INFO)
    return recorder


@cache
def layout(count):
    tasks = {"task": np.array([f"t{i}" for i in range(count)])}
    blocks = {"layer": np.zeros(count, int), "module": np.full(count, "query"), "branch": np.full(count, "A")}
    none = {"layer": np.zeros(0, int)} | {key: np.array([], "U1") for key in PAIR_KEYS[1:]}
    return Layout(none, blocks | tasks)


def add(recorder, step, values):
    pairs = {key: [] for key in ("cos_before", "cos_after", "projected_ij", "projected_ji")}
    nothing, ones = np.full(len(values), np.nan), np.ones(len(values))
    norms = {"norm_before": values, "norm_after": values, "half_product": nothing, "weight": ones}
    recorder.add_gradients(Gradients.of(step, layout(len(values)), pairs, norms))
