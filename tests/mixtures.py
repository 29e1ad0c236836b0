"""One data set of several sources, and a plain trainer on it."""

import inspect

import torch
from accelerate.utils import fsdp_utils
from datasets import Dataset
from models import VOCABULARY
from texts import arguments, llama
from transformers import Trainer, TrainingArguments

LENGTHS = (4, 9)


def leaves_out():
    """Whether the accelerate that is installed can leave modules out of the shards of FSDP2; 1.6 cannot."""
    return "ignored_modules" in inspect.getsource(fsdp_utils.fsdp2_prepare_model)


def mixed(rows=48, seed=0):
    """Texts of three sources, of other lengths and in other numbers, with labels on some tokens only."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for row in range(rows):
        length = int(torch.randint(*LENGTHS, (), generator=generator))
        tokens = torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
        told = row % 3 + 1  # a prompt that has no labels
        source = ("qa", "code", "chat")[int(torch.randint(3, (), generator=generator))]
        found.append({"input_ids": tokens, "labels": [-100] * told + tokens[told:], "source": source, "length": length})
    return Dataset.from_list(found)


def collate(rows):
    """Pads."""
    assert "source" not in rows[0]
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name, value):
        return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

    ids = padded("input_ids", 0)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": padded("labels", -100)}


def made(path, data=None, model=None, kind=Trainer, eval_dataset=None, args=TrainingArguments, **of_args):
    return kind(
        model=llama(dropout=0.1) if model is None else model,
        args=arguments(path, args, **of_args),
        data_collator=collate,
        train_dataset=mixed() if data is None else data,
        eval_dataset=eval_dataset,
    )
