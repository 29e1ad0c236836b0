"""`watch` inside sentence-transformers' trainer, whose data sets take turns: a batch is of one task."""

import pytest
import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig
from texts import adapter, table, trains_as_without
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ortho_lora import OrthoLoRA, OrthoLoraError, OrthoLoraWarning, Recorder, watch

pytest.importorskip("sentence_transformers", reason="not among what this project needs")
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses, modules

pytestmark = pytest.mark.filterwarnings("ignore", "error::ortho_lora.OrthoLoraWarning")  # of others

WORDS = 40
TASKS = ["qa", "sts"]
NEGATIVES = losses.MultipleNegativesRankingLoss


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    words = ["<pad>", "<unk>", *(f"w{n}" for n in range(WORDS))]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=16
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    BertModel(config).save_pretrained(path)
    return path


def pairs():
    generator = torch.Generator().manual_seed(0)

    def text():
        length = int(torch.randint(2, 7, (), generator=generator))
        return " ".join(f"w{n}" for n in torch.randint(WORDS, (length,), generator=generator).tolist())

    def of(count):
        return Dataset.from_list([{"anchor": text(), "positive": text()} for _ in range(count)])

    return DatasetDict({"sts": of(48), "qa": of(96)})


def trainer(saved, path, data=None, loss=NEGATIVES, dropout=0.1, **given):
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[modules.Transformer(str(saved)), modules.Pooling(16)], device="cpu")
    model.add_adapter(LoraConfig(r=3, target_modules=["query", "value"], lora_dropout=dropout))
    of = {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 5, "learning_rate": 0.01,
        "logging_steps": 2, "report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True,
        "dataloader_pin_memory": False, "multi_dataset_batch_sampler": "round_robin",
    }  # fmt: skip
    return SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(str(path), **of | given),
        train_dataset=pairs() if data is None else data,
        eval_dataset=pairs(),
        loss={name: of_model(model) for name, of_model in loss.items()} if isinstance(loss, dict) else loss(model),
    )


CASES = {
    "negatives": {},
    "a loss for each": {"loss": {"qa": NEGATIVES, "sts": losses.MultipleNegativesSymmetricRankingLoss}},
    "in proportion": {"multi_dataset_batch_sampler": "proportional", "gradient_accumulation_steps": 3},
    "without duplicates": {"batch_sampler": "no_duplicates", "prompts": {"qa": "w1 ", "sts": "w2 "}},
}


@pytest.mark.parametrize("given", CASES.values(), ids=CASES)
def test_the_training_is_that_of_the_trainer_alone_bit_for_bit(tmp_path, saved, given):
    alone, watched = (trainer(saved, tmp_path / name, **given) for name in ("alone", "watched"))
    watch(watched, snapshots=1, snapshot_batches=32, recorder=Recorder(tmp_path / "run"))
    trains_as_without(alone, watched)
    found = table(tmp_path / "run", "pairs")
    assert {(row["task_i"], row["task_j"]) for row in found} == {("sts", "qa")}
    assert any(row["cos_before"] is not None for row in found)
    assert any(row["half_product"] is not None for row in table(tmp_path / "run", "norms")) == (
        "multi_dataset_batch_sampler" in given
    )
    snapshots = table(tmp_path / "run", "snapshots")
    assert {row["step"] for row in snapshots} == {3}
    assert any("transfer/qa->sts" in entry for entry in watched.state.log_history)


def test_a_batch_in_parts(tmp_path, saved):
    """As a loss with a cache of gradients makes it, whose sums are taken in another order."""
    given = {"loss": lambda model: losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2), "max_steps": 2}
    alone, watched = (trainer(saved, tmp_path / name, **given) for name in ("alone", "watched"))
    watch(watched)
    for one in (alone, watched):
        torch.manual_seed(1)
        one.train()
    torch.testing.assert_close(adapter(watched.model), adapter(alone.model), atol=1e-6, rtol=1e-6)
    assert "cosine/sts~qa" in watched.state.log_history[0]


def test_what_is_recorded_and_projected_is_that_of_each_batch_by_itself(tmp_path, saved):
    """One step of plain descent over three batches, against the losses of these batches and autograd."""
    given = {"max_steps": 1, "gradient_accumulation_steps": 3, "optim": "sgd", "learning_rate": 1.0}
    given |= {"lr_scheduler_type": "constant", "max_grad_norm": 0.0, "logging_steps": 1, "dropout": 0.0}
    watched, other = trainer(saved, tmp_path / "watched", **given), trainer(saved, tmp_path / "other", **given)
    for one in (watched, other):
        one.model.transformers_model.config.hidden_dropout_prob = 0.0
        for name, part in one.model.named_modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
            if name.endswith("lora_B.default"):
                torch.nn.init.normal_(part.weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    watch(watched, method="ortho-lora", order="fixed", tasks=TASKS, recorder=Recorder(tmp_path / "run"))
    before, seen, collator = adapter(watched.model), [], watched.data_collator

    def collated(rows):
        seen.append(collator(rows))
        return dict(seen[-1])

    collated.valid_label_columns = collator.valid_label_columns
    watched.data_collator = collated
    watched.train()

    of_task = {task: [dict(batch) for batch in seen[:3] if batch["dataset_name"] == task] for task in TASKS}
    assert [len(of) for of in of_task.values()] == [1, 2]
    each = {task: [other.compute_loss(other.model, batch) for batch in batches] for task, batches in of_task.items()}
    blocks = OrthoLoRA(other.model, TASKS).blocks
    found = {
        (row["layer"], row["module"], row["branch"], row["task"]): row["norm_before"]
        for row in table(tmp_path / "run", "norms")
    }
    for task, of in each.items():
        gradients = torch.autograd.grad(sum(of) / 3, [block.parameter for block in blocks], retain_graph=True)
        for block, gradient in zip(blocks, gradients, strict=True):
            expected = pytest.approx(gradient.norm().item(), rel=1e-5)
            assert found[block.layer, block.module, block.branch, task] == expected
        assert watched.state.log_history[0][f"loss/{task}"] == pytest.approx(sum(of).item() / len(of), rel=1e-5)
    surgeon = OrthoLoRA(other.model, TASKS, order="fixed")
    measured = surgeon.backward({task: sum(of) / 3 for task, of in each.items()})
    assert measured.projected.any()
    for name, parameter in other.model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(
                before[name] - adapter(watched.model)[name], parameter.grad, atol=1e-6, rtol=1e-4
            )


def test_where_nothing_can_be_compared_that_is_said(tmp_path, saved):
    watched = trainer(saved, tmp_path, gradient_accumulation_steps=1, max_steps=1)
    watch(watched)
    with pytest.warns(OrthoLoraWarning, match=r"a step holds one batch, so no two .* gradient_accumulation_steps"):
        watched.train()


def test_one_data_set_is_refused(tmp_path, saved):
    """Its rows are each other's negatives, of whatever task."""
    one = trainer(saved, tmp_path, data=pairs()["qa"])
    with pytest.raises(OrthoLoraError, match=r"examples of a batch are each other's negatives, .* train_dataset=\{"):
        watch(one, "source")
    with pytest.raises(OrthoLoraError, match=r"tasks: qa given, expected the data sets' names: sts, qa"):
        watch(trainer(saved, tmp_path), tasks=["qa"])
