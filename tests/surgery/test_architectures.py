"""Nothing is tied to BERT: models of other architectures train, record, resume and have the gradients of autograd."""

import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch
from architectures import ARCHITECTURES, WIDTH, WORDS, tokenizer, write_model
from interruptions import PowerCutError, content, interrupt
from peft import PeftModel
from texts import OLD
from torch import nn

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import read_run
from ortho_lora.record.tables import TABLES
from ortho_lora.tasks.loading import load_tasks
from ortho_lora.training.batches import Batch
from ortho_lora.training.config import load_config
from ortho_lora.training.model import load_encoder, outline
from ortho_lora.training.resume import resume
from ortho_lora.training.session import Training
from ortho_lora.training.train import train

pytestmark = pytest.mark.usefixtures("threads")
GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()

every_architecture = pytest.mark.parametrize("name", list(ARCHITECTURES))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """On random words: does the first one come early in the alphabet; and of pairs: do they begin alike?"""
    directory = tmp_path_factory.mktemp("tasks")
    draw = np.random.default_rng(0)

    def text():
        return " ".join(draw.choice(WORDS, draw.integers(2, 9)))

    early = [(words := text(), "yes" if words < "w3" else "no") for _ in range(60)]
    pairs = [(first := text(), second := text(), first[:2] == second[:2]) for _ in range(60)]
    (directory / "early.csv").write_text("\n".join(["text,label", *(",".join(row) for row in early)]))
    (directory / "alike.csv").write_text("\n".join(["one,two,label", *(f"{a},{b},{int(c)}" for a, b, c in pairs)]))
    return [
        {"name": "early", "path": str(directory / "early.csv"), "text": "text", "label": "label"},
        {"name": "alike", "path": str(directory / "alike.csv"), "text": "one", "text_pair": "two", "label": "label"},
    ]


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: write_model(architecture, root / name) for name, architecture in ARCHITECTURES.items()}


def config(model, tasks, **changes):
    settings = {
        "model": str(model), "tasks": tasks, "batch_size": 5, "steps": 4, "eval_every": 4, "eval_examples": 8,
        "checkpoint_every": 2, "max_length": 16, "rank": 2, "threads": 1,
    }  # fmt: skip
    return load_config(overrides=settings | changes)


@every_architecture
def test_trains_records_and_resumes(name, directories, tasks, tmp_path, monkeypatch):
    expected = ARCHITECTURES[name]
    run_dir = train(config(directories[name], tasks), tmp_path, "whole")
    run = read_run(run_dir)
    assert run.gradient_mode == expected.mode
    assert {module.module for module in run.modules} == set(expected.modules)
    assert {module.layer for module in run.modules} == set(range(expected.layers))
    assert len(run.modules) == expected.layers * len(expected.modules)
    pairs = ds.dataset(part_files(run_dir, "pairs"), schema=TABLES["pairs"]).to_table().to_pandas()
    assert len(pairs) == 4 * 2 * len(run.modules)
    assert pairs.query("step > 0 or branch == 'B'")["cos_before"].notna().all()
    PeftModel.from_pretrained(load_encoder(str(directories[name]))[0], run_dir / "adapter")

    with monkeypatch.context() as patch:
        interrupt(patch, "_train_step", 3)
        with pytest.raises(PowerCutError):
            train(config(directories[name], tasks), tmp_path, "resumed")
    assert content(resume(tmp_path / "resumed")) == content(run_dir)


@every_architecture
def test_the_guide_says_what_is_expected_here(name):
    def plain(words):
        return re.sub(r"[^a-z0-9]", "", words.lower())

    of_this = GUIDE.partition("\n## Whole models")[0]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in of_this.splitlines() if line.startswith("| ")]
    (row,) = (row for row in table if plain(name) in plain(row[0]))
    expected = ARCHITECTURES[name]
    assert tuple(re.findall("`(.*?)`", row[1])) == expected.modules
    assert row[3:] == [expected.mode, "last" if expected.causal else "mean"]


@every_architecture
@pytest.mark.parametrize("mode", ["auto", "sequential"])
def test_gradients_are_those_of_a_backward_pass_for_each_task(name, mode, directories, tasks):
    if OLD and name == "gpt2":
        pytest.skip("transformers 4 cannot mask it in float64")
    settings = config(directories[name], tasks, dropout=0.0, method="joint", gradient_mode=mode)
    training = Training(settings, load_tasks(settings.tasks, 0), lambda status: None, threading.Event())
    training.model.double()
    blocks = training.groups[0].surgeon.blocks
    generator = torch.Generator().manual_seed(0)
    for block in blocks:
        nn.init.normal_(block.parameter, std=0.3, generator=generator)
    drawn = training.sampler.next()
    (measured,) = training.measure(drawn)

    batch = Batch(training.tasks, drawn, training.tokenizer, settings.max_length, training.device)
    parameters = [block.parameter for block in blocks]

    def gradients(task, start, end):
        """Of every block, of the mean over a task's whole batch what some of its examples contribute."""
        some = batch.part(task, start, end)
        (loss,) = some.losses(training.model.loss, training.model.pooled(some.tokens())).values()
        return [found.flatten() for found in torch.autograd.grad(loss, parameters)]

    whole = [gradients(task, 0, 5) for task in range(2)]
    halves = [(gradients(task, 0, 2), gradients(task, 2, 5)) for task in range(2)]
    for index, block in enumerate(blocks):
        own = torch.stack([of_task[index] for of_task in whole])
        torch.testing.assert_close(block.parameter.grad.flatten(), own.sum(0), rtol=1e-5, atol=1e-5 * own.abs().max())
        gram = own @ own.T
        torch.testing.assert_close(measured.gram[index], gram, rtol=1e-5, atol=1e-5 * gram.max())
        # Of the means over two and over three of five examples.
        products = torch.stack([first[index] @ second[index] * 5 / 2 * 5 / 3 for first, second in halves])
        torch.testing.assert_close(measured.half_products[index], products, rtol=1e-5, atol=1e-5 * gram.max())


@every_architecture
def test_what_a_model_makes_of_tokens_is_found_by_asking_it(name, directories):
    model, _ = load_encoder(str(directories[name]))
    assert outline(model).width == WIDTH
    assert outline(model).causal == ARCHITECTURES[name].causal
    assert outline(model).pooling("auto") == ("last" if ARCHITECTURES[name].causal else "mean")


@pytest.mark.parametrize("name", [name for name, of in ARCHITECTURES.items() if of.longest])
def test_the_longest_text_is_one_that_the_model_takes(name, directories):
    longest = ARCHITECTURES[name].longest
    model, tokens = load_encoder(str(directories[name]), longest)
    batch = tokens(" ".join(WORDS), truncation=True, max_length=longest, return_tensors="pt")
    assert model(**batch).last_hidden_state.shape[1] == longest
    with pytest.raises(OrthoLoraError, match=f"{longest + 1} given, and model .* takes at most {longest} tokens"):
        load_encoder(str(directories[name]), longest + 1)


def test_types_of_tokens_are_left_out_where_a_model_has_none(directories):
    """RoBERTa has one, and GPT-2 would take the types for tokens."""
    typed = {name for name, path in directories.items() if "token_type_ids" in load_encoder(str(path))[1]("w1", "w2")}
    assert typed == {"xlm-roberta", "electra", "albert"}


def test_padding_changes_nothing(directories):
    for name, directory in directories.items():
        model, tokens = load_encoder(str(directory))
        short, long = "w1 w2", " ".join(WORDS[:12])
        alone = model(**tokens([short], return_tensors="pt")).last_hidden_state[0]
        beside = model(**tokens([short, long], padding=True, return_tensors="pt")).last_hidden_state[0, : len(alone)]
        torch.testing.assert_close(beside, alone, rtol=1e-4, atol=1e-5, msg=name)


def test_the_first_token_of_a_decoder_is_refused(directories, tasks, tmp_path):
    with pytest.raises(OrthoLoraError, match="pooling: 'first' given, and the first token .* use 'last' or 'mean'"):
        train(config(directories["gpt2"], tasks, pooling="first"), tmp_path, "x")
    assert not (tmp_path / "x").exists()


def test_a_target_that_is_not_there_is_refused_with_those_that_are(directories, tasks, tmp_path):
    with pytest.raises(OrthoLoraError, match=r"query, Wqkv given for ModernBertModel.* are Wi, Wo, Wqkv: name .*query"):
        train(config(directories["modernbert"], tasks, target_modules=["query", "Wqkv"]), tmp_path, "x")


def test_fused_is_refused_where_a_layer_projects_positions_too(directories, tasks, tmp_path):
    with pytest.raises(OrthoLoraError, match="needs plain LoRA linear layers, and query_proj are not"):
        train(config(directories["deberta-v3"], tasks, gradient_mode="fused"), tmp_path, "x")


def test_the_tokenizer_of_another_model_is_refused(directories, tmp_path):
    directory = write_model(ARCHITECTURES["roberta"], tmp_path / "mixed")
    other = tokenizer(pad_token="<pad>")
    other.add_tokens(["more", "words"])
    other.save_pretrained(directory)
    with pytest.raises(OrthoLoraError, match="knows 52 tokens and the model 50: they do not belong together"):
        load_encoder(str(directory))


def test_weights_of_another_model_are_refused(directories, tmp_path):
    directory = write_model(ARCHITECTURES["roberta"], tmp_path / "mixed")
    shutil.copy(directories["distilbert"] / "model.safetensors", directory)
    with pytest.raises(OrthoLoraError, match="parameters would be random, as .* of a RobertaModel"):
        load_encoder(str(directory))


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path):
    directory = write_model(ARCHITECTURES["gpt2"], tmp_path / "gpt2")
    tokenizer(bos_token=None, eos_token=None, unk_token=None).save_pretrained(directory)
    with pytest.raises(OrthoLoraError, match=r"no padding token.* set pad_token in its tokenizer_config\.json"):
        load_encoder(str(directory))


def test_the_packaged_decoder_trains(tmp_path):
    """Real weights, real texts."""
    settings = load_config(
        overrides={
            "model": "smollm2", "tasks": ["trec", "movies"], "batch_size": 2, "max_length": 16, "rank": 8, "steps": 2,
            "eval_every": 2, "eval_examples": 2, "checkpoint_every": None, "threads": 1,
        }
    )  # fmt: skip
    run_dir = train(settings, tmp_path, "decoder")
    run = read_run(run_dir)
    assert {(module.layer, module.module) for module in run.modules} == {
        (layer, module) for layer in range(30) for module in ("q_proj", "v_proj")
    }
    steps = ds.dataset(part_files(run_dir, "steps"), schema=TABLES["steps"]).to_table().to_pandas()
    assert np.isfinite(steps["loss"]).all()
    pairs = ds.dataset(part_files(run_dir, "pairs"), schema=TABLES["pairs"]).to_table().to_pandas()
    assert pairs.query("step == 1")["cos_before"].notna().all()


@torch.no_grad()
def test_the_packaged_decoder_is_a_language_model():
    """Dequantised weights in the wrong place would know nothing of what follows."""
    model, tokens = load_encoder("smollm2")
    text = tokens("The capital of France is Paris, and the capital of Germany is Berlin.", return_tensors="pt")
    scores = model(**text).last_hidden_state[0] @ model.get_input_embeddings().weight.T  # the two are tied
    assert nn.functional.cross_entropy(scores[:-1], text["input_ids"][0, 1:]) < 3
