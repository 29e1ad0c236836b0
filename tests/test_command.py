"""The command line as a user meets it: bad input is one sentence, with exit status 2 and before a model is loaded."""

import pytest
from forks import forks

from ortho_lora.training.config import Config


def run(*arguments):
    """Run the command where it is imported already, with any attempt to load torch made an error."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from ortho_lora.__main__ import main; sys.argv[1:] = sys.argv[2:]; main()"
    )
    return forks("ortho_lora.__main__").run(["-c", code, "--", *arguments])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tasks", "movies@0.7"], "is a twin of 'movies', which is not among the tasks"),
        (["--method", "ortholora"], "nearest: 'ortho-lora'"),
        (["--set", "learning_rat=1"], "there is no such setting; nearest: 'learning_rate'"),
        (["--set", "learning_rate"], "expected KEY=VALUE, as in --set learning_rate=1e-4"),
        (["--set", "target_modules=[query"], "--set target_modules=[query: '[query' is not valid YAML"),
        (["--set", "rank=0"], "rank: 0 given"),
        (["--config", "absent.yaml"], "configuration absent.yaml: cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, tmp_path):
    done = run("train", "--runs-dir", str(tmp_path / "runs"), *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to probe: give the directory of a run, or --config or --tasks for a start."),
        (["absent"], "absent: not a run (no run.json)"),
        (
            ["absent", "--method", "joint"],
            "a run is probed with its own settings: leave --config, --tasks and",
        ),
        (["--tasks", "trec,movies", "--batches", "0"], "batches: 0 given, expected at least 1"),
        (["--tasks", "trec,movies", "--half-width", "5"], "half_width: 5 given, expected a number between 0 and 1"),
        (["--tasks", "trec,movies@0.7"], "is a twin of 'movies', which is not among the tasks"),
    ],
)
def test_bad_input_to_probe_is_one_sentence_too(arguments, sentence, tmp_path):
    done = run("probe", "--runs-dir", str(tmp_path / "runs"), *arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert not (tmp_path / "runs").exists()


def test_help_lists_every_setting_with_its_default():
    done = run("train", "--help")
    assert done.returncode == 0
    for line in (
        "rank = 8: Rank of the adapter.",
        "schedule = linear: How the learning rate goes after the warm-up. One of linear, cosine, constant.",
        "clip = null: Largest norm",
        "tasks = [trec, tweets, movies]: Packaged names",
        "learning_rate = 0.0005: Learning rate of the adapter.",
    ):
        assert line in " ".join(done.stdout.split())
    assert all(f" {name} = " in " ".join(done.stdout.split()) for name in Config.model_fields)
