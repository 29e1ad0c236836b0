"""Roll-ups hold what the rows add up to, however a run was written, interrupted and put together."""

import itertools
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ortho_lora.record import rollup, store
from ortho_lora.record.manifest import Part, part_files, read_manifest
from ortho_lora.record.parts import part_name, together
from ortho_lora.record.rollup import RollUp, widened
from ortho_lora.record.rows import Gradients, Layout, decode, encode
from ortho_lora.record.store import Batch, Store
from ortho_lora.record.tables import ROLLUPS, SCHEMAS, TABLES

BLOCKS = [(layer, module, branch) for layer in (0, 1) for module in ("query", "value") for branch in "AB"]
TASKS = ["one", "two", "three"]
WHOLE = Layout.of(BLOCKS, TASKS)


def gradients(step, layout=WHOLE, seed=0):
    """Random ones, some of them missing."""
    random = np.random.default_rng([seed, step])
    pairs, norms = len(layout.pairs["layer"]), len(layout.norms["layer"])

    def some(values):
        return np.where(random.random(len(values)) < 0.2, np.nan, values)

    of_pairs = {name: some(random.uniform(-1, 1, pairs)) for name in ("cos_before", "cos_after")}
    of_pairs |= {name: random.random(pairs) < 0.4 for name in ("projected_ij", "projected_ji")}
    names = ("norm_before", "norm_after", "half_product", "weight")
    return Gradients.of(step, layout, of_pairs, {name: some(random.random(norms)) for name in names})


def expected(steps, level):
    """The same sums by pandas, over all steps."""
    pairs = encode("pairs", steps).to_pandas()
    norms = encode("norms", steps).to_pandas()
    block = ["step", "layer", "module", "branch"]
    for side in "ij":
        of = norms.rename(columns={"task": f"task_{side}", "norm_before": f"n_{side}", "half_product": f"h_{side}"})
        pairs = pairs.merge(of[[*block, f"task_{side}", f"n_{side}", f"h_{side}"]], how="left")
    places = {"by_step": ["branch"], "by_layer": ["layer", "branch"], "by_block": ["layer", "module", "branch"]}[level]
    both = pairs["h_i"].notna() & pairs["h_j"].notna()
    inner = (pairs["cos_before"] * pairs["n_i"] * pairs["n_j"]).where(pairs["cos_before"].notna(), 0)
    values = {
        "measured": pairs["cos_before"].notna(),
        "conflicts": pairs["cos_before"] < 0,
        "conflicts_after": pairs["cos_after"] < 0,
        "projected_ij": pairs["projected_ij"] & pairs["cos_before"].notna(),
        "cosines": pairs["cos_before"],
        "cosine_squares": pairs["cos_before"] ** 2,
        "cosines_after": pairs["cos_after"],
        "removed_ji": -pairs["cos_before"].where(pairs["projected_ji"]),
        "halved": both,
        "product": inner.where(both),
        "half_i": pairs["h_i"].where(both),
        "half_j": pairs["h_j"].where(both),
        "similarity": (2 * pairs["n_i"] * pairs["n_j"] / (pairs["n_i"] ** 2 + pairs["n_j"] ** 2)).where(
            pairs["cos_before"].notna()
        ),
    }
    keys = [*places, "task_i", "task_j"]
    if level == "by_step":
        values |= {"inner_product": inner, "square_i": pairs["n_i"] ** 2, "square_j": pairs["n_j"] ** 2}
    frame = pairs[keys].assign(**{name: of.astype(float) for name, of in values.items()})
    sums = frame.groupby(keys, observed=True).sum()
    extremes = pairs.groupby(keys, observed=True)["cos_before"].agg(cosine_low="min", cosine_high="max")
    return sums.join(extremes)


def check(tables, steps):
    for level in ("by_step", "by_layer", "by_block"):
        found = tables[f"rollup/pairs_{level}"].to_pandas()
        right = expected(steps, level)
        keys = list(right.index.names)
        ways = {"cosine_low": "min", "cosine_high": "max"}
        sums = found.groupby(keys, observed=True).agg({name: ways.get(name, "sum") for name in right.columns})
        pd.testing.assert_frame_equal(
            sums.sort_index(), right.sort_index(), check_dtype=False, check_categorical=False,
            check_index_type=False, rtol=1e-5, atol=1e-5,
        )  # fmt: skip
        spans = sorted(set(zip(found["step"], found["step_end"], strict=True)))
        assert all(end < begin for (_, end), (begin, _) in itertools.pairwise(spans)), "no step in two bins"


@given(count=st.integers(1, 60), gap=st.integers(1, 5), first=st.integers(0, 9), parted=st.booleans())
@settings(max_examples=20, deadline=None)
def test_roll_ups_are_the_sums_of_the_rows(count, gap, first, parted):
    layouts = [Layout.of(BLOCKS[:4], TASKS), Layout.of(BLOCKS[4:], TASKS)] if parted else [WHOLE]
    steps = [gradients(first + gap * number, layout) for number in range(count) for layout in layouts]
    found = RollUp()
    for one in steps:
        found.add(one)
    found.finish()
    check(found.take(), steps)


def read(run_dir):
    return {name: ds.dataset(part_files(run_dir, name), schema=schema).to_table() for name, schema in SCHEMAS.items()}


def begun(tmp_path):
    for name in SCHEMAS:
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def narrow(monkeypatch):
    """Bins of two recorded steps, sixteen of them at most."""
    monkeypatch.setattr(rollup, "_FIRST_WIDTH", 2)
    monkeypatch.setattr(rollup, "MOST_BINS", 16)


@pytest.mark.usefixtures("narrow")
def test_bins_widen_as_a_run_grows_and_stay_few(tmp_path):
    steps = [gradients(3 * number) for number in range(100)]
    of_run = Store(begun(tmp_path), rows=300)
    for begin in range(0, len(steps), 7):
        of_run.write(Batch(gradients=steps[begin : begin + 7]))
        bins = read_manifest(tmp_path).bins
        parts = read_manifest(tmp_path).of("rollup/pairs_by_layer")
        if parts:
            found = ds.dataset(part_files(tmp_path, "rollup/pairs_by_layer")).to_table().to_pandas()
            assert found["step"].nunique() <= 16
            assert set((found["step"] - bins.first) % bins.width) == {0}
    of_run.finish()
    assert read_manifest(tmp_path).bins.width == 3 * 2 * 4
    tables = read(tmp_path)
    check(tables, steps)
    assert tables["rollup/pairs_by_block"].to_pandas()["step"].nunique() == 2


@pytest.mark.usefixtures("narrow")
@given(stops=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 8), st.booleans()), min_size=1, max_size=3))
@settings(max_examples=8, deadline=None)
def test_a_run_that_goes_on_has_the_roll_ups_of_one_that_was_never_interrupted(tmp_path_factory, stops):
    run_dir = begun(tmp_path_factory.mktemp("run"))
    of_run, at = Store(run_dir, rows=300), 0
    for more, back, finished in [*stops, (20, 0, True)]:
        for begin in range(at, at + more, 3):
            of_run.write(Batch(gradients=[gradients(step) for step in range(begin, min(begin + 3, at + more))]))
        at += more
        if finished:
            of_run.finish()
        if (more, back) != (20, 0):
            at = max(at - back, 0)
            of_run = Store(run_dir, rows=300, before=dict.fromkeys(TABLES, at))
    steps = [gradients(step) for step in range(at)]
    of_run.finish()
    tables = read(run_dir)
    for name in ("pairs", "norms"):
        assert (
            tables[name].equals(encode(name, steps).cast(TABLES[name]))
            or tables[name].to_pylist() == encode(name, steps).to_pylist()
        )
    check(tables, steps)
    assert not list(run_dir.rglob(".*"))


def test_rows_come_back_as_gradients():
    steps = [gradients(0), gradients(4, Layout.of(BLOCKS[:2], TASKS[:2])), gradients(5), gradients(6)]
    found = list(decode(encode("pairs", steps), encode("norms", steps)))
    assert [of.step for of in found] == [0, 4, 5, 6]
    assert found[2].layout is found[3].layout
    for one, other in zip(steps, found, strict=True):
        for name in ("pairs", "norms"):
            for key, values in getattr(one, name).items():
                np.testing.assert_array_equal(getattr(other, name)[key], values)
            for key, values in getattr(one.layout, name).items():
                assert getattr(other.layout, name)[key].tolist() == values.tolist()


def test_wider_bins_of_wide_bins_are_the_same():
    found = RollUp()
    for step in range(40):
        found.add(gradients(step))
    found.finish()
    table = found.take()["rollup/pairs_by_layer"]
    assert widened(table, found.bins, 1).equals(table)


@given(rows=st.lists(st.integers(1, 50)), fewest=st.integers(2, 9))
def test_parts_are_put_together_up_to_a_size(rows, fewest):
    parts = [Part(name=part_name(place), rows=count, first=place, last=place) for place, count in enumerate(rows)]
    done = 0
    for begin, end in together(parts, 40, fewest):
        assert begin >= done
        assert end - begin >= 2
        assert sum(rows[begin:end]) <= 40
        assert end == len(rows) or sum(rows[begin : end + 1]) > 40
        done = end
    assert sum(1 for _ in together(parts, 40)) <= sum(rows) / 20 + 1


def test_whoever_reads_while_parts_are_put_together_sees_each_row_once(tmp_path, monkeypatch):
    """A reader takes what the manifest names; a file that is gone since is looked up again."""
    monkeypatch.setattr(store, "GRACE", 0.0)
    monkeypatch.setattr(store, "FEWEST_TOGETHER", 4)
    run_dir, done, seen, wrong = begun(tmp_path), threading.Event(), [], []

    def look():
        while not done.is_set() or not seen:
            try:
                steps = ds.dataset(part_files(run_dir, "norms"), schema=TABLES["norms"]).to_table(["step"])["step"]
            except (FileNotFoundError, pa.ArrowInvalid):
                continue
            counts = np.unique(steps.to_numpy(), return_counts=True)
            if not np.array_equal(counts[0], np.arange(len(counts[0]))) or set(counts[1]) - {24}:
                wrong.append(counts)
            seen.append(len(counts[0]))

    reader = threading.Thread(target=look)
    reader.start()
    of_run = Store(run_dir, rows=300)
    for step in range(80):
        of_run.write(Batch(gradients=[gradients(step)]))
    of_run.finish()
    done.set()
    reader.join()
    assert not wrong
    assert seen == sorted(seen)
    assert len(read_manifest(run_dir).of("norms")) < 20


def test_every_roll_up_says_what_its_columns_mean():
    assert all(kind.metadata[b"meaning"] for schema in ROLLUPS.values() for kind in schema)
