"""A trainer that you have, watched: one mixed data set with a column that says where a row comes from.

    python examples/watched.py                            `transformers.Trainer`, on a tiny model made here, in seconds
    python examples/watched.py --nf4                      the same with its weights in 4 bits (QLoRA)
    python examples/watched.py --trainer sft              TRL's SFTTrainer, with packing
    python examples/watched.py --trainer dpo              TRL's DPOTrainer, chosen and rejected answers
    python examples/watched.py --trainer sft --model Qwen/Qwen2.5-0.5B --method ortho-lora
    python examples/watched.py --trainer sft --model smollm2 --data DIRECTORY --sources mnli rte qqp sst2

The last renders rows as prompts, of files NAME.train.csv and NAME.validation.csv with columns of text and a label.
The trainers are made as ever; `watch` is the line that is added. Beside the loss they log that of each task, how the
tasks' gradients agree, and twice on the way what a step for one task does to another's loss.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas
import torch
from causal_lm import TASKS, encoded, examples, load
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from ortho_lora import Recorder, watch
from ortho_lora.assets.archives import MODELS, model_directory
from ortho_lora.trainers.packed import carrying

SHORT = 250  # letters of a row


def instructions(data: Path, sources: list[str], split: str, count: int) -> Dataset:
    """The first short rows of each file as prompts, whose answers are its labels."""
    found = []
    for source in sources:
        of = {name: pandas.read_csv(data / f"{source}.{name}.csv", dtype=str) for name in ("train", split)}
        labels = sorted(of["train"]["label"].unique())
        table = of[split].dropna()
        texts = table.drop(columns="label").apply(
            lambda row: "\n".join(f"{name}: {row[name]}" for name in row.index), 1
        )
        kept = (texts.str.len() < SHORT) & table["label"].isin(labels)
        found += [
            {
                "prompt": f"{source}: {' or '.join(labels)}?\n{text}\nanswer:",
                "completion": f" {label}",
                "source": source,
            }
            for text, label in zip(texts[kept][:count], table["label"][kept][:count], strict=True)
        ]
    return Dataset.from_list(found).shuffle(seed=0)


def mixed(count: int, seed: int, tokenizer: Any, trainer: str) -> Dataset:
    """Rows of both tasks, twice as many of the first."""
    found = []
    for task, times in zip(TASKS, (2, 1), strict=True):
        texts = examples(task, times * count, seed)
        rows: list[dict[str, Any]]
        if trainer == "plain":
            rows = [dict(row) for row in encoded(task, times * count, seed, tokenizer)]
        elif trainer == "sft":
            rows = [{"prompt": prompt, "completion": answer} for prompt, answer in texts]
        else:  # the words in the wrong order are the answer that is rejected
            rows = [
                {"prompt": prompt, "chosen": answer, "rejected": " " + " ".join(reversed(answer.split()))}
                for prompt, answer in texts
            ]
        found.append(Dataset.from_list([row | {"source": task} for row in rows]))
    return concatenate_datasets(found).shuffle(seed=seed)


def made(given: argparse.Namespace) -> Trainer:
    """A trainer as anyone would make it."""
    if given.nf4:
        bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        model, tokenizer = load(given.model, quantization_config=bits)
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    else:
        model, tokenizer = load(str(model_directory(given.model)) if given.model in MODELS else given.model)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    settings = {
        "output_dir": str(given.runs_dir.parent / "checkpoints" / given.name),
        "max_steps": given.steps,
        "per_device_train_batch_size": given.batch_size,
        "learning_rate": given.learning_rate or (5e-3 if given.model is None else 2e-4),
        "logging_steps": max(given.steps // 5, 1),
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.accelerator.is_available(),
    }
    if given.data:
        data = [instructions(given.data, given.sources, *of) for of in (("train", 1000), ("validation", 200))]
    else:
        data = [mixed(count, seed, tokenizer, given.trainer) for count, seed in ((256, 0), (64, 1))]
    if given.trainer == "plain":
        return Trainer(
            get_peft_model(model, lora),
            TrainingArguments(**settings),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            train_dataset=data[0],
            eval_dataset=data[1],
        )
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    settings |= {"max_length": given.max_length, "bf16": False}
    common = {
        "train_dataset": data[0], "eval_dataset": data[1], "processing_class": tokenizer, "peft_config": lora,
    }  # fmt: skip
    if given.trainer == "sft":
        # Packing puts several texts into a row: `carrying` keeps what task each is of.
        packed: Trainer = carrying(SFTTrainer, "source")(model, args=SFTConfig(**settings, packing=True), **common)
        return packed
    return DPOTrainer(model, args=DPOConfig(**settings), **common)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", choices=["plain", "sft", "dpo"], default="plain")
    parser.add_argument("--nf4", action="store_true", help="quantise the model's weights; needs bitsandbytes")
    parser.add_argument("--model", help="smollm2 (packaged), a local directory or a name on the hub")
    parser.add_argument("--data", type=Path, help="a folder of files with texts and labels, for --trainer sft")
    parser.add_argument("--sources", nargs="+", help="names of these files")
    parser.add_argument("--max-length", type=int, default=64, help="tokens of a row, with --trainer sft or dpo")
    parser.add_argument("--method", default="joint", help="joint only watches; ortho-lora, pcgrad, ... project")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--snapshot-batches", type=int, default=32)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--name", default="watched", help="of the run, which must be new")
    given = parser.parse_args()
    if given.data and (given.trainer != "sft" or not given.sources):
        parser.error("--data needs --trainer sft, and --sources: names of files in it, as mnli of mnli.train.csv")

    recorder = Recorder(given.runs_dir / given.name)  # first, so that a name that is taken costs nothing
    torch.manual_seed(0)
    trainer = made(given)
    watch(
        trainer,
        task_column="source",
        method=given.method,
        snapshots=2,
        snapshot_batches=given.snapshot_batches,
        recorder=recorder,
    )
    trainer.train()
    print(f"python -m analysis transfer {given.runs_dir / given.name}")


if __name__ == "__main__":
    main()
