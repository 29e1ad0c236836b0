"""What `OrthoLoRATrainer` is given: the tasks' data, and what it refuses."""

from types import SimpleNamespace

import pytest
from texts import OLD, Texts, adapter, arguments, collate, datasets, llama, same, trainer
from torch.utils.data import IterableDataset
from transformers import Trainer

from ortho_lora import OrthoLoraError, OrthoLoRATrainer
from ortho_lora.trainers import versions
from ortho_lora.trainers.task_dataset import TaskDataset


def test_every_example_of_every_task_is_drawn_and_a_short_one_starts_again(tmp_path):
    trained = trainer(tmp_path, of_args={"num_train_epochs": 1, "max_steps": -1})
    loader = trained.get_train_dataloader()
    assert len(loader) == 4
    drawn = {task: [] for task in datasets()}
    for batch in loader:
        assert list(batch) == ["a", "b", "c"]
        for task, of in batch.items():
            assert set(of) == {"input_ids", "labels"}
            drawn[task] += [tuple(row) for row in of["input_ids"].tolist()]
    for task, texts in datasets().items():
        counts = [drawn[task].count(tuple(row)) for row in texts.tokens.tolist()]
        assert sum(counts) == 16
        assert set(counts) <= {16 // len(texts), -(-16 // len(texts))}


def test_tasks_with_the_same_texts_do_not_meet_in_one_batch_by_their_place():
    texts = Texts(1000, 0)
    joined = TaskDataset({"a": texts, "b": texts}, seed=0)
    together = sum(joined[k]["a"][0]["input_ids"].equal(joined[k]["b"][0]["input_ids"]) for k in range(1000))
    assert together < 10
    assert sorted(place for k in range(1000) for place in joined.places("b", k)) == list(range(1000))
    in_order = TaskDataset({"a": texts, "b": Texts(7, 1)}, seed=None)
    assert [in_order.places("a", 999), in_order.places("b", 999)] == [[999], [999 % 7]]


def test_workers_draw_what_one_process_draws(tmp_path):
    trained = [trainer(tmp_path, of_args={"dataloader_num_workers": workers, "max_steps": 2}) for workers in (0, 2)]
    for one in trained:
        one.train()
    same(*(adapter(one.model) for one in trained))


def test_datasets_of_the_library_of_that_name(tmp_path):
    from datasets import Dataset as Table

    tables = {
        task: Table.from_dict({"input_ids": of.tokens.tolist(), "labels": of.labels.tolist(), "text": ["x"] * len(of)})
        for task, of in datasets().items()
    }
    ours = OrthoLoRATrainer(
        model=llama(), args=arguments(tmp_path), train_dataset=tables, eval_dataset={"a": tables["a"]}
    )
    ours.train()
    plain = trainer(tmp_path)
    plain.train()
    same(adapter(ours.model), adapter(plain.model))
    assert ours.evaluate()["eval_a_loss"] > 0


class Stream(IterableDataset):
    def __iter__(self):
        yield from Texts(3, 0)


WRONG_DATA = {
    "one dataset": (
        Texts(4, 0),
        r"train_dataset: Texts given, expected a dict of datasets by task.*\{\"task\": dataset",
    ),
    "none": (None, "train_dataset: NoneType given, expected a dict"),
    "an empty dict": ({}, "train_dataset: an empty dict given, expected datasets by task"),
    "no examples": ({"a": Texts(4, 0), "b": Texts(0, 0)}, "task 'b' has no examples, expected at least one"),
    "a stream": ({"a": Stream()}, "task 'a' is a Stream, expected a dataset with a length.*stream"),
    "a task without a name": ({0: Texts(4, 0)}, "task 0 given, expected a name"),
}


@pytest.mark.parametrize("name", WRONG_DATA)
def test_wrong_datasets(tmp_path, name):
    data, message = WRONG_DATA[name]
    with pytest.raises(OrthoLoraError, match=message):
        OrthoLoRATrainer(model=llama(), args=arguments(tmp_path), data_collator=collate, train_dataset=data)


WRONG_SETTINGS = {
    "task": ({"loss_weights": {"d": 1.0}}, "task 'd': expected one of a, b, c"),
    "method": ({"method": "mtl"}, "method 'mtl': expected one of joint"),
    "sampling": (
        {"of_args": {"group_by_length": True} if OLD else {"train_sampling_strategy": "group_by_length"}},
        "train_sampling_strategy='group_by_length'.*use 'random' or 'sequential'",
    ),
    "optimizer": (
        {"of_args": {"optim": "galore_adamw_layerwise", "optim_target_modules": ["q_proj"]}},
        "optim='galore_adamw_layerwise' updates weights during the backward pass",
    ),
    "sharding": ({"of_args": {"fsdp": True}}, "shards parameters that are trained.*FSDP_IGNORED_MODULES='.*lora_"),
}


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_wrong_settings(tmp_path, name, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")  # which transformers 4 sets for what comes after
    given, message = WRONG_SETTINGS[name]
    with pytest.raises(OrthoLoraError, match=message):
        trainer(tmp_path, **given)


def test_a_model_without_lora_is_refused_before_training(tmp_path):
    with pytest.raises(OrthoLoraError, match="expected one active LoRA adapter, found none"):
        trainer(tmp_path, llama().get_base_model().__class__(llama().config))


def test_sharding_that_the_launcher_chose_is_refused(tmp_path, monkeypatch):
    whole, old = SimpleNamespace(fsdp_version=2, ignored_modules=None), SimpleNamespace(fsdp_version=1)
    for name, plugin, message in (
        ("is_deepspeed_enabled", None, "DeepSpeed splits gradients"),
        ("is_fsdp_enabled", old, "FSDP of version 1 splits gradients.*or fully_shard"),
        ("is_fsdp_enabled", whole, "shards parameters that are trained"),
    ):
        made = trainer(tmp_path)
        monkeypatch.setattr(made, name, True)
        state = SimpleNamespace(fsdp_plugin=plugin)
        monkeypatch.setattr(made, "accelerator", SimpleNamespace(state=state))
        with pytest.raises(OrthoLoraError, match=message):
            made._refuse_launched()


def test_a_trainer_with_other_seams_is_refused(tmp_path, monkeypatch):
    monkeypatch.delattr(Trainer, "_save_rng_state")
    with pytest.raises(OrthoLoraError, match=rf"ran in transformers {versions.RAN}; .* has no _save_rng_state: inst"):
        trainer(tmp_path)


def test_a_trainer_that_collates_otherwise_is_refused(tmp_path, monkeypatch):
    trained = trainer(tmp_path)
    monkeypatch.setattr(trained, "_get_collator_with_removed_columns", lambda collator, description=None: collator)
    with pytest.raises(OrthoLoraError, match="does not collate with what _get_collator_with_removed_columns returns"):
        trained.get_train_dataloader()
