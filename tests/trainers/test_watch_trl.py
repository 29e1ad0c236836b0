"""`watch` inside the trainers of TRL: the same training bit for bit."""

import pytest
import torch
from datasets import Dataset
from models import VOCABULARY
from peft import LoraConfig
from texts import llama, table, trains_as_without
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from ortho_lora import OrthoLoRA, OrthoLoraError, Recorder, watch
from ortho_lora.trainers import packed as packing
from ortho_lora.trainers.mixture import KEY, LENGTHS
from ortho_lora.trainers.packed import carrying

trl = pytest.importorskip("trl", reason="TRL is an extra")

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL's own

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}ask {{ m['content'] }} {% else %}say {% generation %}"
    "{{ m['content'] }} end{% endgeneration %} {% endif %}{% endfor %}"
)


def tokenizer():
    words = ["<pad>", "<unk>", "<eos>", "ask", "say", "end", *(f"w{n}" for n in range(VOCABULARY - 6))]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>", chat_template=TEMPLATE
    )


def rows(kind, count=32):
    generator = torch.Generator().manual_seed(0)

    def words(most):
        length = int(torch.randint(2, most, (), generator=generator))
        return " ".join(f"w{n}" for n in torch.randint(0, VOCABULARY - 6, (length,), generator=generator).tolist())

    def one(row):
        asked, good, bad = words(6), words(9), words(7)
        talk = [{"role": "user", "content": asked}, {"role": "assistant", "content": good}]
        of = {
            "text": {"text": f"{asked} {good}"},
            "messages": {"messages": talk},
            "completion": {"prompt": asked, "completion": f" {good}"},
            "preference": {"prompt": asked, "chosen": f" {good}", "rejected": f" {bad}"},
        }
        return of[kind] | {"source": ("qa", "code")[row % 3 % 2]}

    return Dataset.from_list([one(row) for row in range(count)])


LORA = {"r": 3, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}


def settings(kind, path, **given):
    of = {
        "per_device_train_batch_size": 4, "max_steps": 5, "learning_rate": 0.01, "logging_steps": 2, "report_to": [],
        "disable_tqdm": True, "dataloader_pin_memory": False, "save_strategy": "no", "use_cpu": True, "bf16": False,
        "max_length": 24,
    }  # fmt: skip
    of = {name: value for name, value in (of | given).items() if name in kind.__dataclass_fields__}
    return kind(str(path), **of)


def base():
    return llama().unload()


def classifier():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        num_key_value_heads=1, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    return LlamaForSequenceClassification(config)


def sft(path, kind, **given):
    torch.manual_seed(0)
    return trl.SFTTrainer(
        base(), args=settings(trl.SFTConfig, path, **given), train_dataset=rows(kind), processing_class=tokenizer(),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
    )  # fmt: skip


def packed(path, **given):
    torch.manual_seed(0)
    return carrying(trl.SFTTrainer, "source")(
        base(), args=settings(trl.SFTConfig, path, packing=True, **given), train_dataset=rows("text", 64),
        processing_class=tokenizer(), peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
    )  # fmt: skip


def dpo(path, **given):
    torch.manual_seed(0)
    return trl.DPOTrainer(
        base(), args=settings(trl.DPOConfig, path, **given), train_dataset=rows("preference"),
        processing_class=tokenizer(), peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
    )  # fmt: skip


def reward(path, **given):
    torch.manual_seed(0)
    return trl.RewardTrainer(
        classifier(), args=settings(trl.RewardConfig, path, **given), train_dataset=rows("preference"),
        processing_class=tokenizer(), peft_config=LoraConfig(task_type="SEQ_CLS", **LORA),
    )  # fmt: skip


def short(prompts, completions, **_):
    return [-float(len(text)) for text in completions]


def grpo(path, **given):
    torch.manual_seed(0)
    of = {"num_generations": 4, "max_completion_length": 5, "per_device_train_batch_size": 16} | given
    return trl.GRPOTrainer(
        base(), reward_funcs=short, args=settings(trl.GRPOConfig, path, **of),
        train_dataset=rows("preference").select_columns(["prompt", "source"]),
        processing_class=tokenizer(), peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
    )  # fmt: skip


APART = packing._kept_apart()  # documents of one row
IN_ROWS = ("padding-free", "packed", "packed, accumulated")
together = pytest.mark.skipif(not APART, reason="refused: transformers before 4.53 lets documents see each other")

CASES = {
    "text": lambda path: sft(path, "text"),
    "accumulated": lambda path: sft(path, "text", gradient_accumulation_steps=2),
    "chat": lambda path: sft(path, "messages"),
    "assistant only": lambda path: sft(path, "messages", assistant_only_loss=True),
    "completion only": lambda path: sft(path, "completion", completion_only_loss=True),
    "padding-free": lambda path: sft(path, "completion", padding_free=True, max_length=None),
    "packed": packed,
    "packed, accumulated": lambda path: packed(path, gradient_accumulation_steps=2, packing_strategy="bfd_split"),
    "dpo": dpo,
    "dpo accumulated": lambda path: dpo(path, gradient_accumulation_steps=2),
    "reward": reward,
    "grpo": grpo,
    "grpo, answers used twice": lambda path: grpo(path, num_iterations=2, gradient_accumulation_steps=2),
}


@pytest.mark.parametrize(
    "make", [pytest.param(make, id=name, marks=together if name in IN_ROWS else ()) for name, make in CASES.items()]
)
def test_the_training_is_that_of_the_trainer_alone_bit_for_bit(tmp_path, make):
    alone, watched = (make(tmp_path / name) for name in ("alone", "watched"))
    watch(watched, "source", recorder=Recorder(tmp_path / "run"))
    trains_as_without(alone, watched)
    found = table(tmp_path / "run", "pairs")
    assert {(row["task_i"], row["task_j"]) for row in found} == {("code", "qa")}
    assert any(row["cos_before"] is not None for row in found)


ALONE = {
    "dpo": lambda path: dpo(path, **TWICE),
    "dpo, hinge and sft": lambda path: dpo(path, loss_type=["hinge", "sft"], loss_weights=[0.7, 0.3], **TWICE),
    "reward": lambda path: reward(path, center_rewards_coefficient=0.1, **TWICE),
    "grpo over tokens": lambda path: grpo(path, beta=0.1, **TWICE),
    "grpo over answers": lambda path: grpo(path, beta=0.1, loss_type="grpo", **TWICE),
}
TWICE = {"gradient_accumulation_steps": 2, "max_steps": 1, "logging_steps": 1}


def with_effect(trainer):
    """An adapter that does something, and drops nothing out."""
    for name, module in trainer.model.named_modules():
        if "lora_dropout" in name and hasattr(module, "p"):
            module.p = 0.0
        if name.endswith("lora_B.default"):
            torch.nn.init.normal_(module.weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return trainer


def of_task(batch, mask):
    """Rows of it; what is there for each of two answers stands twice."""
    times = {name: len(value) // len(mask) for name, value in batch.items() if getattr(value, "ndim", 0)}
    return batch | {name: torch.cat([rows[mask] for rows in batch[name].chunk(count)]) for name, count in times.items()}


@pytest.mark.parametrize("make", ALONE.values(), ids=ALONE)
def test_each_tasks_loss_is_that_of_its_examples_alone(tmp_path, make):
    """Of the trainer's own code, given one task's examples; a mean over those of a step, or over their tokens."""
    watched, alone = with_effect(make(tmp_path / "watched")), with_effect(make(tmp_path / "alone"))
    watch(watched, "source", recorder=Recorder(tmp_path / "run"))
    seen, prepare = [], watched._prepare_inputs
    watched._prepare_inputs = lambda batch: seen.append(prepare(batch)) or dict(seen[-1])
    watched.train()
    assert len(seen) == 2
    alone.model.eval()
    logged = watched.state.log_history[0]
    for place, task in enumerate(("code", "qa")):
        total = weights = 0.0
        for batch in seen:
            mask = batch[KEY] == place
            own = of_task({name: value for name, value in batch.items() if not name.startswith("ortho_lora")}, mask)
            weight = int(mask.sum())
            if "completion_ids" in own and alone.loss_type == "dapo":
                weight = own["num_items_in_batch"] = own["completion_mask"].sum()
            if weight:
                total += weight * alone.compute_loss(alone.model, own).item()
            weights += weight
        assert logged[f"loss/{task}"] == pytest.approx(float(total / weights), rel=1e-5, abs=1e-7)
    found = [row["loss"] for row in table(tmp_path / "run", "steps")]
    assert found == pytest.approx([logged["loss/code"], logged["loss/qa"]], rel=1e-6)
    assert found[0] != found[1]


@together
def test_packing_is_that_of_the_trainer_without(tmp_path):
    """In the same order, and each document is of the task that its text was of."""
    carried = packed(tmp_path / "carried").train_dataset
    plain = trl.SFTTrainer(
        base(), args=settings(trl.SFTConfig, tmp_path / "plain", packing=True), train_dataset=rows("text", 64),
        processing_class=tokenizer(), peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
    ).train_dataset  # fmt: skip
    assert plain["input_ids"] == carried["input_ids"]
    assert plain["seq_lengths"] == carried["seq_lengths"]
    known = {
        tuple(text.split()): source
        for text, source in zip(*(rows("text", 64)[n] for n in ("text", "source")), strict=True)
    }
    words, found = tokenizer(), []
    for row in carried:
        start = 0
        for length in row["seq_lengths"]:
            text = words.decode(row["input_ids"][start : start + length]).removesuffix("<eos>").split()
            of = set(row[KEY][start : start + length])
            found.append(of == {("code", "qa").index(known[tuple(text)])})
            start += length
    assert found == [True] * 64


@together
@pytest.mark.parametrize("make", [packed, CASES["padding-free"]], ids=["packed", "padding-free"])
def test_what_is_packed_is_taken_apart_as_autograd_does(tmp_path, make):
    """With the labels of all other tasks left out of the loss."""
    watched = make(tmp_path / "out")
    watch(watched, "source")
    batch = dict(next(iter(watched.get_train_dataloader())))
    tasks, lengths = batch.pop(KEY), batch.pop(LENGTHS)
    assert len(batch["input_ids"]) == 1 < len(tasks)
    watched.model.eval()  # nothing drops out
    for name, parameter in watched.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    surgeon = OrthoLoRA(watched.model, ["code", "qa"])
    given = {name: batch[name] for name in ("input_ids", "position_ids")}

    def loss(labels):
        logits = watched.model(**given).logits
        return torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum")

    of_token = tasks.repeat_interleave(lengths)[None]
    with surgeon.mixed_batch(tasks.tolist(), length_of_example=lengths.tolist()):
        measured = surgeon.backward(loss(batch["labels"]))
    for task in (0, 1):
        blocks = [block.parameter for block in surgeon.blocks]
        gradients = torch.autograd.grad(loss(batch["labels"].where(of_token == task, -100)), blocks)
        for block, gradient in enumerate(gradients):
            expected = pytest.approx(gradient.square().sum().item(), rel=1e-5)
            assert measured.gram[block, task, task].item() == expected


def test_documents_that_see_each_other_are_refused(tmp_path, monkeypatch):
    """As before transformers 4.53, where only flash attention parts them."""
    monkeypatch.setattr(packing, "_kept_apart", lambda: False)
    trainer = sft(tmp_path, "completion", padding_free=True, max_length=None)
    with pytest.raises(OrthoLoraError, match=r"padding_free: with attention 'sdpa' this version of transformers lets"):
        watch(trainer, "source")
    trainer.model.config._attn_implementation = "flash_attention_2"
    watch(trainer, "source")


@together
def test_what_cannot_be_told_apart_is_refused(tmp_path):
    wrapped = settings(trl.SFTConfig, tmp_path, packing=True, packing_strategy="wrapped")
    given = {"train_dataset": rows("text"), "processing_class": tokenizer(), "peft_config": LoraConfig(**LORA)}
    with pytest.raises(OrthoLoraError, match=r"packing_strategy: 'wrapped' lets documents of different tasks attend"):
        carrying(trl.SFTTrainer, "source")(base(), args=wrapped, **given)
    with pytest.raises(OrthoLoraError, match=r"packing_strategy: 'wrapped'"):
        watch(trl.SFTTrainer(base(), args=wrapped, **given), "source")
    dropped = trl.SFTTrainer(base(), args=settings(trl.SFTConfig, tmp_path, packing=True), **given)
    with pytest.raises(
        OrthoLoraError, match=r"packing has dropped it: make the trainer with carrying\(SFTTrainer, 'sou"
    ):
        watch(dropped, "source")
    with pytest.raises(OrthoLoraError, match=r"DPOTrainer given, expected TRL's SFTTrainer"):
        carrying(trl.DPOTrainer, "source")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(CASES["completion only"], id="sft"), pytest.param(packed, id="packed", marks=together),
        pytest.param(dpo, id="dpo"),
    ],
)  # fmt: skip
def test_snapshots_are_not_noticed(tmp_path, make):
    alone, watched = (make(tmp_path / name) for name in ("alone", "watched"))
    watch(watched, "source", snapshots=1, snapshot_batches=32, recorder=Recorder(tmp_path / "run"))
    trains_as_without(alone, watched)
    assert {row["step"] for row in table(tmp_path / "run", "snapshots")} == {3}


def test_answers_that_are_generated_have_no_snapshots(tmp_path):
    with pytest.raises(OrthoLoraError, match=r"snapshots: GRPOTrainer generates what it learns from: leave snapshots"):
        watch(grpo(tmp_path), "source", snapshots=1)
