"""One LoRA adapter of a language model for two tasks of instructions, with `OrthoLoRATrainer`.

    python examples/causal_lm.py                               a tiny model made here, in seconds
    python examples/causal_lm.py --model Qwen/Qwen2.5-0.5B     a model of the hub, or a local directory
    torchrun --nproc-per-node 2 examples/causal_lm.py          on several devices

The tasks ask opposite things of the same words: to say them again, and to say them backwards. The record lands in
runs/<name>; `python -m analysis summary` or the dashboard read it.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    TrainingArguments,
)

from ortho_lora import OrthoLoRATrainer, Recorder

WORDS = ["river", "stone", "lamp", "cloud", "violin", "paper", "tiger", "window", "salt", "engine", "garden", "copper"]
TASKS = {"repeat": "Repeat the words:", "reverse": "Reverse the words:"}
ANSWER = "Answer:"


def examples(task: str, count: int, seed: int) -> list[tuple[str, str]]:
    """Prompts and answers."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        words = [WORDS[index] for index in torch.randint(len(WORDS), (4,), generator=generator)]
        answer = words if task == "repeat" else words[::-1]
        found.append((f"{TASKS[task]} {' '.join(words)} {ANSWER}", f" {' '.join(answer)}"))
    return found


def encoded(task: str, count: int, seed: int, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, list[int]]]:
    """Token ids, with labels for the answer only."""
    rows = []
    for prompt, answer in examples(task, count, seed):
        asked = tokenizer(prompt)["input_ids"]
        told = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        rows.append({"input_ids": asked + told, "labels": [-100] * len(asked) + told})
    return rows


def tiny() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A Llama that knows nothing yet, and a tokenizer that knows the words above."""
    known = sorted({word for text in (*TASKS.values(), ANSWER) for word in text.split()} | set(WORDS))
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *known])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )
    return LlamaForCausalLM(config), fast


def load(name: str | None, **given: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer; None: the tiny one."""
    if name is None:
        model, tokenizer = tiny()
        if given:  # as weights are quantised: while they are loaded
            with TemporaryDirectory() as directory:
                model.save_pretrained(directory)
                model = AutoModelForCausalLM.from_pretrained(directory, **given)
        return model, tokenizer
    tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return AutoModelForCausalLM.from_pretrained(name, **given), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a local directory or a name on the hub")
    parser.add_argument("--method", default="ortho-lora", help="ortho-lora, joint, pcgrad, ...")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=8, help="examples of each task in a step")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--name", default="causal-lm", help="of the run, which must be new")
    given = parser.parse_args()

    recorder = Recorder(given.runs_dir / given.name)  # first, so that a name that is taken costs nothing
    torch.manual_seed(0)
    model, tokenizer = load(given.model)
    adapted = get_peft_model(
        model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    trainer = OrthoLoRATrainer(
        model=adapted,
        args=TrainingArguments(
            str(given.runs_dir.parent / "checkpoints" / given.name),
            max_steps=given.steps,
            per_device_train_batch_size=given.batch_size,
            learning_rate=5e-3 if given.model is None else 2e-4,
            logging_steps=max(given.steps // 5, 1),
            eval_strategy="steps",
            eval_steps=max(given.steps // 2, 1),
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=torch.accelerator.is_available(),
        ),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        train_dataset={task: encoded(task, 512, 0, tokenizer) for task in TASKS},
        eval_dataset={task: encoded(task, 64, 1, tokenizer) for task in TASKS},
        method=given.method,
        recorder=recorder,
    )
    trainer.train()
    if trainer.is_world_process_zero():
        adapted.save_pretrained(given.runs_dir / given.name / "adapter")
        print(f"python -m analysis summary {given.runs_dir / given.name}")


if __name__ == "__main__":
    main()
