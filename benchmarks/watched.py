"""What `watch` adds to a step of a trainer that it only looks at: plain rows, and packed ones.

    python benchmarks/watched.py
    python benchmarks/watched.py --model tiny

smollm2, 135 million parameters, LoRA of rank 16 on queries and values, 4 sources of random tokens. Trainings alone and
watched, with a record, take turns. The time is taken of each step but the first ones, which are compared with autograd.
"""

import json
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ortho_lora import Recorder, watch
from ortho_lora.assets.archives import model_directory
from ortho_lora.trainers.packed import carrying

SOURCES = 4
FIRST = 2  # steps that are not counted


class Clock(TrainerCallback):
    """Takes the time of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def model_of(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if name == "tiny":
        return LlamaForCausalLM(
            LlamaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        )
    found: torch.nn.Module = AutoModelForCausalLM.from_pretrained(model_directory(name), dtype=torch.float32)
    return found


def texts(rows: int, length: int, vocabulary: int) -> Dataset:
    chance = np.random.default_rng(0)
    tokens = [chance.integers(5, vocabulary, chance.integers(length // 2, length + 1)).tolist() for _ in range(rows)]
    return Dataset.from_list(
        [{"input_ids": of, "labels": of, "source": f"s{row % SOURCES}"} for row, of in enumerate(tokens)]
    )


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": ids.masked_fill(ids == 0, -100)}


def trainer_of(model: torch.nn.Module, data: Dataset, path: Path, given: dict[str, Any], *, packed: bool) -> Trainer:
    lora = LoraConfig(r=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    if not packed:
        return Trainer(get_peft_model(model, lora), TrainingArguments(str(path), **given), collate, data)  # type: ignore[arg-type]
    from trl import SFTConfig, SFTTrainer

    settings = SFTConfig(str(path), **given, packing=True, max_length=256, bf16=False)
    tokenizer = AutoTokenizer.from_pretrained(model_directory("smollm2"))
    made: Trainer = carrying(SFTTrainer, "source")(
        model, args=settings, train_dataset=data, peft_config=lora, processing_class=tokenizer
    )
    return made


def main(
    model: Annotated[str, typer.Option(help="Packaged model, or tiny.")] = "smollm2",
    length: Annotated[int, typer.Option(min=4, help="Tokens of a text, at most.")] = 96,
    batch_size: Annotated[int, typer.Option(min=SOURCES, help="Rows of a step.")] = 8,
    steps: Annotated[int, typer.Option(min=FIRST + 1, help="Of each training.")] = 6,
    rounds: Annotated[int, typer.Option(min=1, help="Trainings of each kind.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print the ratio of watched steps to those of the trainer alone."""
    warnings.filterwarnings("ignore")
    vocabulary = int(model_of(model).config.vocab_size)  # type: ignore[union-attr, arg-type]
    data = texts(16 * batch_size, length, vocabulary)
    given = {
        "max_steps": steps, "logging_steps": steps, "report_to": [], "disable_tqdm": True, "save_strategy": "no",
        "use_cpu": not torch.accelerator.is_available(), "dataloader_pin_memory": False,
    }  # fmt: skip
    rows = []
    for packed in (False, True):
        found: dict[str, list[float]] = {"alone": [], "watched": []}
        size = max(batch_size * length // 256, 1) if packed else batch_size
        for number in range(rounds):
            for name in found:
                with tempfile.TemporaryDirectory() as directory:
                    path = Path(directory)
                    trainer = trainer_of(
                        model_of(model), data, path, {**given, "per_device_train_batch_size": size}, packed=packed
                    )
                    if name == "watched":
                        watch(trainer, "source", recorder=Recorder(path / f"run-{number}"))
                    trainer.remove_callback(PrinterCallback)
                    clock = Clock()
                    trainer.add_callback(clock)
                    trainer.train()
                    found[name] += clock.seconds[FIRST:]
        times = {name: median(of) for name, of in found.items()}
        rows.append({"packed": packed, **times, "ratio": times["watched"] / times["alone"]})
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        kind = "packed" if row["packed"] else "rows"
        print(f"{kind:8} alone {row['alone']:.3f} s   watched {row['watched']:.3f} s   ratio {row['ratio']:.3f}")


if __name__ == "__main__":
    typer.run(main)
