"""Make the records that come with this package anew: `make samples`, or `python docs/samples.py`.

They lie in `analysis/samples`, a runs directory. Trains, in a folder of its own, about ten minutes on two cores:

    ortho-lora train --config examples/demo.yaml --name sample-demo     the demo run
    ortho-lora train --config lesson-dial-0.yaml --name lesson-dial-0   and six more, as app/views/lesson_runs.py says
    ortho-lora study quick.yaml --name sample-study --workers 2         the preset `quick`, with record_every: 4

Of each the tables that count are shipped; not what was trained, nor the log, the process or the machine. Of the
gradients that a snapshot keeps (`vectors`) a part of the coordinates is, each of which then stands for more.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from analysis.library.notes import Notes, write_notes
from analysis.library.samples import DEMO, SAMPLES
from app.launching.launcher import as_yaml
from app.views import lesson_runs
from ortho_lora.record.files import replace_text
from ortho_lora.record.manifest import Part, read_manifest
from ortho_lora.record.parts import publish, write_part
from ortho_lora.record.schema import Status, read_run, read_status
from ortho_lora.record.study import FILE_NAME, read_study, write_study
from ortho_lora.study.file import PRESETS

ROOT = Path(__file__).resolve().parents[1]
STUDY = "sample-study"
COORDINATES = 2**11
"""That are kept of a snapshot's gradients, of the up to 8192 of a record."""
STUDY_RECORDS_EVERY = 4

TITLES = {
    DEMO: "The demo: three tasks, and a twin of one of them with most labels flipped",
    **{name: f"The lesson: the dial at {rho:g}" for rho, name in lesson_runs.DIAL.items()},
    lesson_runs.OWN_HEAD: "The lesson: all labels flipped, and a head of its own",
    lesson_runs.UNRELATED: "The lesson: two tasks that have nothing to do with each other",
}
COMMANDS = {
    **{name: ["train", "--config", f"{name}.yaml", "--name", name] for name in lesson_runs.TASKS},
    STUDY: ["study", "quick.yaml", "--name", STUDY, "--workers", "2"],
    DEMO: ["train", "--config", "examples/demo.yaml", "--name", DEMO],  # last: pages open with the newest
}


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _write_settings(folder)
        for command in COMMANDS.values():
            print("ortho-lora", *command, flush=True)
            _run(folder, [*command, "--runs-dir", "."])
        ship_all(folder)
    size = sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file())
    print(f"{size / 1e6:.2f} MB in {SAMPLES.relative_to(ROOT)}")


def ship_all(folder: Path) -> None:
    """Put what was trained in a folder in place of the records that are there."""
    shutil.rmtree(SAMPLES, ignore_errors=True)
    for name in COMMANDS:
        if (folder / name / FILE_NAME).is_file():
            ship_study(folder, name)
        else:
            ship(folder, name, TITLES[name])


def ship_study(folder: Path, name: str) -> None:
    """Copy a study and its runs."""
    study = read_study(folder / name)
    for run in dict.fromkeys(use.run_id for use in study.uses):
        ship(folder, f"{name}/{run}")
    write_study(SAMPLES / name, study.model_copy(update={"command": _anywhere(study.command, folder)}))


def ship(folder: Path, name: str, title: str = "") -> None:
    """Copy what is recorded of a run that has finished, and nothing of the machine that it ran on."""
    run, target = folder / name, SAMPLES / name
    target.mkdir(parents=True)
    info, status = read_run(run), read_status(run)
    assert status is not None
    assert status.state == "finished"
    info = info.model_copy(update={"command": _anywhere(info.command, folder)})
    replace_text(target / "run.json", info.model_dump_json())
    replace_text(target / "status.json", _of_nobody(status).model_dump_json())
    manifest = read_manifest(run)
    for table, parts in manifest.parts.items():
        (target / table).mkdir(parents=True, exist_ok=True)
        manifest = manifest.replaced(table, [_ship_part(run, target, table, part) for part in parts])
    publish(target, manifest)
    if title:
        write_notes(target, Notes(title=title, tags=("shipped",)))


def _anywhere(command: list[str], folder: Path) -> list[str]:
    """As it would be typed in the folder of the runs."""
    below = [word.removeprefix(f"{folder.resolve()}/") for word in command[1:]]
    return ["ortho-lora", *("." if word == str(folder.resolve()) else word for word in below)]


def _of_nobody(status: Status) -> Status:
    """The same without the process and its host."""
    nobody = {"pid": 0, "process_start_time": 0.0, "host": None, "ticks": None, "heartbeat_monotonic": None}
    return status.model_copy(update=nobody)


def _ship_part(run: Path, target: Path, table: str, part: Part) -> Part:
    if table == "vectors":
        return write_part(target / table / part.name, thinned(pq.read_table(run / table / part.name)))
    shutil.copy(run / table / part.name, target / table / part.name)
    return part


def thinned(vectors: pa.Table) -> pa.Table:
    """Rows of one snapshot at fewer coordinates, drawn at random: each stands for as many more (its `rate`)."""
    lists = vectors["values"].combine_chunks()
    values = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
    width = values.shape[1]
    if width <= COORDINATES:
        return vectors
    kept = values[:, np.sort(np.random.default_rng(0).choice(width, COORDINATES, replace=False))]
    kept[vectors["kind"].to_numpy() == "rate"] *= width / COORDINATES
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * COORDINATES
    place = vectors.schema.get_field_index("values")
    found = pa.ListArray.from_arrays(offsets, pa.array(kept.ravel(), pa.float32(), from_pandas=True))
    return vectors.set_column(place, vectors.schema.field(place), found.cast(vectors.schema.field(place).type))


def _write_settings(folder: Path) -> None:
    """The files that the commands name."""
    (folder / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "demo.yaml", folder / "examples")
    for name in lesson_runs.TASKS:
        (folder / f"{name}.yaml").write_text(as_yaml(lesson_runs.config(name)), encoding="utf-8")
    quick = yaml.safe_load(PRESETS["quick"].read_text(encoding="utf-8"))
    quick["base"]["record_every"] = STUDY_RECORDS_EVERY
    (folder / "quick.yaml").write_text(yaml.safe_dump(quick, sort_keys=False), encoding="utf-8")


def _run(folder: Path, command: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "ortho_lora", *command], cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    main()
