"""What `watch` adds to a step of a trainer that it only looks at: plain rows, and packed ones.

    python benchmarks/watched.py
    python benchmarks/watched.py --model tiny

smollm2, 135 million parameters, LoRA of rank 16 on queries and values, 4 sources of random tokens. Two trainings of the
same batches, one alone and one watched, with a record, take turns step by step, so that a machine whose speed drifts
does so for both. Ratio: the median over steps, with its interval of 95% (of the sign test). The first steps, which are
compared with autograd, do not count.
"""

import json
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from scipy import stats
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

from analysis.statistics.series import Floats
from ortho_lora import Recorder, watch
from ortho_lora.assets.archives import model_directory
from ortho_lora.trainers.packed import carrying

SOURCES = 4
FIRST = 2  # steps that are not counted


class Turns(TrainerCallback):
    """Takes the time of each step, and then lets the other training make one."""

    def __init__(self, mine: threading.Semaphore, others: threading.Semaphore) -> None:
        self.mine, self.others = mine, others
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.mine.acquire()
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)
        self.others.release()


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


def seconds(model: str, data: Dataset, given: dict[str, Any], *, packed: bool) -> tuple[Floats, Floats]:
    """Of each step of a training alone, and of one that is watched."""
    turns = [threading.Semaphore(1), threading.Semaphore(0)]
    clocks = [Turns(turns[0], turns[1]), Turns(turns[1], turns[0])]
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(2) as threads:
        path = Path(directory)
        trainers = [trainer_of(model_of(model), data, path, given, packed=packed) for _ in clocks]
        watch(trainers[1], "source", recorder=Recorder(path / "run"))
        for trainer, clock in zip(trainers, clocks, strict=True):
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(clock)
        for done in [threads.submit(trainer.train) for trainer in trainers]:
            done.result()
    alone, watched = (np.array(clock.seconds[FIRST:]) for clock in clocks)
    return alone, watched


def main(
    model: Annotated[str, typer.Option(help="Packaged model, or tiny.")] = "smollm2",
    length: Annotated[int, typer.Option(min=4, help="Tokens of a text, at most.")] = 96,
    batch_size: Annotated[int, typer.Option(min=SOURCES, help="Rows of a step.")] = 8,
    steps: Annotated[int, typer.Option(min=FIRST + 1, help="Of each training.")] = 24,
    kind: Annotated[Literal["rows", "packed", "both"], typer.Option(help="Of batches.")] = "both",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print the ratio of watched steps to those of the trainer alone."""
    warnings.filterwarnings("ignore")
    vocabulary = int(model_of(model).config.vocab_size)  # type: ignore[union-attr, arg-type]
    data = texts(16 * batch_size, length, vocabulary)
    given = {
        "max_steps": steps, "logging_steps": steps, "report_to": [], "disable_tqdm": True, "save_strategy": "no",
        "use_cpu": not torch.accelerator.is_available(), "dataloader_pin_memory": False, "data_seed": 0,
    }  # fmt: skip
    rows = []
    for packed in (False, True):
        if kind == ("rows" if packed else "packed"):
            continue
        size = max(batch_size * length // 256, 1) if packed else batch_size
        alone, watched = seconds(model, data, {**given, "per_device_train_batch_size": size}, packed=packed)
        ratios = watched / alone
        low, high = stats.quantile_test(ratios).confidence_interval()  # nan: too few
        row = {"packed": packed, "alone": float(np.median(alone)), "watched": float(np.median(watched))}
        rows.append({**row, "ratio": float(np.median(ratios)), "low": low, "high": high})
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        of = "packed" if row["packed"] else "rows"
        times = f"alone {row['alone']:.3f} s   watched {row['watched']:.3f} s"
        print(f"{of:8} {times}   ratio {row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})")


if __name__ == "__main__":
    typer.run(main)
