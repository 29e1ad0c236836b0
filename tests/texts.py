"""Tasks of random texts, a tiny language model to train on them, and what a training leaves."""

import pyarrow.parquet as pq
import torch
from models import VOCABULARY
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset, SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from ortho_lora import OrthoLoRATrainer
from ortho_lora.record.manifest import part_files
from ortho_lora.trainers.task_dataset import TaskDataset

LENGTH = 6
OLD = not hasattr(TrainingArguments, "train_sampling_strategy")  # transformers 4
SEQUENTIAL = {"train_sampling_strategy": "sequential"}


class Texts(Dataset):
    """Random tokens to continue, with a column that no model knows; some have padding without a label."""

    def __init__(self, examples, seed, padding=False):
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(1, VOCABULARY, (examples, LENGTH), generator=generator)
        self.labels = self.tokens.clone()
        if padding:
            for row, length in enumerate(torch.randint(2, LENGTH, (examples,), generator=generator)):
                self.labels[row, length:] = -100

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "labels": self.labels[index], "unknown": "text"}


def llama(dropout=0.0):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        num_key_value_heads=1,
    )  # fmt: skip
    settings = LoraConfig(r=3, target_modules=["q_proj", "v_proj"], lora_dropout=dropout, task_type="CAUSAL_LM")
    return get_peft_model(LlamaForCausalLM(config), settings)


def collate(examples):
    assert "unknown" not in examples[0]
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def datasets(padding=False):
    return {"a": Texts(16, 1, padding), "b": Texts(12, 2, padding), "c": Texts(7, 3, padding)}


def arguments(path, kind=TrainingArguments, **given):
    settings = {
        "per_device_train_batch_size": 4, "max_steps": 6, "learning_rate": 0.01, "logging_steps": 2, "report_to": [],
        "disable_tqdm": True, "dataloader_pin_memory": False, "save_strategy": "no", "use_cpu": True,
    }  # fmt: skip
    return kind(str(path), **(settings | given))


def adapter(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def trainer(path, model=None, train=None, *, of_args=None, **given):
    of_args = dict(of_args or {})
    in_order = OLD and of_args.pop("train_sampling_strategy", None) == "sequential"
    train = datasets() if train is None else train
    made = OrthoLoRATrainer(
        model=llama() if model is None and "model_init" not in given else model,
        args=arguments(path, **of_args),
        data_collator=collate,
        train_dataset=train,
        **given,
    )
    if in_order:  # for which transformers 4 has no setting
        made.train_dataset = TaskDataset(train, None, given.get("sampling", "equal"))
        made._get_train_sampler = lambda *_: SequentialSampler(made.train_dataset)
    return made


def same(a, b):
    assert a.keys() == b.keys()
    assert all(a[name].equal(b[name]) for name in a)


def steps_of(run_dir, table="steps"):
    return [row["step"] for part in part_files(run_dir, table) for row in pq.read_table(part).to_pylist()]


def table(run_dir, name):
    return [row for part in part_files(run_dir, name) for row in pq.read_table(part).to_pylist()]


def logs(trainer):
    """Without what takes time, and what is ours."""
    ours = ("loss/", "cosine/", "cosine_error/", "conflict_rate/", "projected/", "snapshot_cosine/", "transfer/")
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "step_time")
    return [
        {name: value for name, value in entry.items() if not name.startswith((*ours, *timed))}
        for entry in trainer.state.log_history
    ]


def trains_as_without(alone, watched):
    """Train both, with the same chance: weights and logs are the same bit for bit."""
    for one in (alone, watched):
        torch.manual_seed(1)  # of dropout
        one.train()
    same(adapter(alone.model), adapter(watched.model))
    assert logs(alone) == logs(watched)
