import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.specs import DialTask, FileTask, HubTask, PackagedTask
from ortho_lora.training.config import METHODS, Config, load_config


def test_defaults_are_the_three_packaged_tasks_with_ortho_lora():
    config = load_config()
    assert [task.name for task in config.tasks] == ["trec", "tweets", "movies"]
    assert (config.effective.rule, config.effective.scope, config.label) == ("pcgrad", "block", "ortho-lora")


def test_short_forms_of_tasks():
    config = load_config(overrides={"tasks": ["movies", "movies@0.7", "movies@1+head", "hf:glue/sst2"]})
    assert [type(task) for task in config.tasks] == [PackagedTask, DialTask, DialTask, HubTask]
    assert [task.name for task in config.tasks] == ["movies", "movies-flip0.7", "movies-flip1-own", "sst2"]
    assert (config.tasks[1].rho, config.tasks[1].own_head, config.tasks[2].own_head) == (0.7, False, True)


def test_file_task_needs_its_columns():
    config = load_config(overrides={"tasks": [{"name": "mine", "path": "x.csv", "text": "a", "label": "b"}]})
    assert isinstance(config.tasks[0], FileTask)
    with pytest.raises(OrthoLoraError, match=r"tasks\.0\.label: .*field required"):
        load_config(overrides={"tasks": [{"name": "mine", "path": "x.csv", "text": "a"}]})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"learning_rat": 1}, "learning_rat: there is no such setting; nearest: 'learning_rate'."),
        (
            {"method": "ortholora"},
            "method: 'ortholora' given, expected one of joint, ortho-lora, ortho-lora-a, ortho-lora-b, pcgrad, single;"
            " nearest",
        ),
        ({"rank": 0}, "rank: 0 given; input should be greater than or equal to 1."),
        ({"dropout": 1.0}, "dropout: 1.0 given; input should be less than 1."),
        ({"tasks": ["tweet"]}, "'tweet' given, expected one of trec, spam, tweets, movies, news; nearest: 'tweets'"),
        ({"tasks": []}, "tasks: .* given; tuple should have at least 1 item"),
        ({"tasks": ["trec", "trec"]}, "task 'trec' is given 2 times: give each task a name of its own."),
        ({"tasks": ["trec", "movies@0.5"]}, "twin of 'movies', which is not among the tasks"),
        ({"tasks": ["movies", "movies@1.5"]}, "rho: '1.5' given; input should be less than or equal to 1"),
        ({"steps": 5, "warmup_steps": 5}, "warmup_steps is 5: expected fewer than the 5 steps."),
        (
            {"method": "single", "rule": "sum"},
            "method 'single' has nothing to project: leave rule, scope and branches out.",
        ),
        (
            {"tasks": [{"name": "../up", "path": "x", "text": "a", "label": "b"}]},
            "name: '../up' given; string should match",
        ),
    ],
)
def test_refusals_say_what_was_given_and_expected(values, sentence):
    with pytest.raises(OrthoLoraError, match=sentence):
        load_config(overrides=values)


def test_file_and_overrides(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("steps: 7\nrank: 4\nlearning_rate: 1e-4\n")
    config = load_config(path, {"rank": 2})
    assert (config.steps, config.rank, config.learning_rate) == (7, 2, 1e-4)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("- a\n- b\n", "expected settings as `key: value`"), ("a: [", "not valid YAML"), (None, "cannot be read")],
)
def test_unreadable_file_is_named(tmp_path, text, sentence):
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(OrthoLoraError, match=f"configuration {path}: {sentence}"):
        load_config(path)


def test_words_that_yaml_took_for_truth_values_are_words(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "encoder_dropout: yes\n"
        "tasks: [{name: on, path: x.csv, text: no, label: yes, skip_empty: on, drop_labels: [off, -1]}]\n"
    )
    config = load_config(path)
    (task,) = config.tasks
    assert (task.name, task.text, task.label, task.skip_empty) == ("on", "no", "yes", True)
    assert (task.drop_labels, config.encoder_dropout) == (("off", "-1"), True)


@pytest.mark.parametrize(("written", "quoted"), [("true", "true"), ("3", "3"), ("2020-01-01", "2020-01-01")])
def test_a_column_that_yaml_takes_for_something_else_is_to_be_quoted(tmp_path, written, quoted):
    path = tmp_path / "run.yaml"
    path.write_text(f"tasks: [{{name: mine, path: x.csv, text: body, label: {written}}}]\n")
    with pytest.raises(OrthoLoraError, match=f'expected text: write it in quotation marks, as in "{quoted}"'):
        load_config(path)


def test_a_key_that_is_given_twice_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("steps: 5\nrank: 4\nsteps: 7\n")
    with pytest.raises(OrthoLoraError, match="'steps' is given twice: remove one .*line 3"):
        load_config(path)


def test_a_task_that_leaves_nothing_out_is_written_as_before():
    task = load_config(overrides={"tasks": [{"name": "mine", "path": "x.csv", "text": "a", "label": "b"}]}).tasks[0]
    assert {"skip_empty", "drop_labels"}.isdisjoint(task.model_dump())


@given(st.sampled_from(sorted(METHODS)), st.integers(1, 64), st.floats(1e-6, 1.0))
def test_round_trip_through_its_own_json(method, rank, learning_rate):
    config = load_config(overrides={"method": method, "rank": rank, "learning_rate": learning_rate})
    assert Config.model_validate(config.model_dump(mode="json")) == config


def test_every_setting_is_explained():
    assert all(field.description for field in Config.model_fields.values())


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError):
        load_config().steps = 3


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({"rule": "pcgrad-inplace"}, "pcgrad-inplace@block"),
        ({"rule": "pcgrad", "scope": "model"}, "pcgrad"),
        ({"method": "pcgrad", "scope": "module"}, "pcgrad@module"),
        ({"method": "joint"}, "joint"),
    ],
)
def test_label_names_the_method_in_use(values, label):
    assert load_config(overrides=values).label == label
