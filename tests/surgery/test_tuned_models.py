"""Whole models as people tune them: encoder-decoders, pictures, speech, experts, quantised weights.

Each is tiny and random, with the head that it is trained with; what a mixed batch is taken apart into is compared with
what autograd finds for one task's examples in a pass of their own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from texts import OLD
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from ortho_lora import OrthoLoRA, OrthoLoraError
from ortho_lora.record.layers import layer_name
from ortho_lora.surgery.blocks import module_infos

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()
TASKS = ["a", "b"]
EXAMPLES = {"a": slice(0, 3), "b": slice(3, 5)}
TASK_OF_EXAMPLE = ["a"] * 3 + ["b"] * 2
VOCABULARY, WIDTH, LENGTH, IMAGE = 50, 16, 8, 49
COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
DECODER = COMMON | SIZES | {"num_key_value_heads": 1, "max_position_embeddings": 64}
SEQ2SEQ = COMMON | {"d_model": WIDTH, "decoder_start_token_id": 2}
SIDES = {
    f"{side}_{what}": size
    for side in ("encoder", "decoder")
    for what, size in {"layers": 2, "attention_heads": 2, "ffn_dim": 32}.items()
}

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Tuned:
    """How a model is made, what it is given, and what of it is adapted."""

    make: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], Inputs]  # of five examples, with labels
    targets: str | tuple[str, ...] = ("q_proj", "v_proj")
    causal: bool = True  # whether a token's label is the next token
    close: float = 1e-5  # to which its gradients are equal, of the largest


def texts(draw: torch.Generator) -> Inputs:
    """Of different lengths, padded on the right."""
    ids = torch.randint(3, IMAGE, (5, LENGTH), generator=draw)
    mask = (torch.arange(LENGTH) < torch.tensor([8, 5, 7, 6, 8])[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def translations(draw: torch.Generator) -> Inputs:
    return texts(draw) | {"labels": texts(draw)["labels"][:, :6].contiguous()}


def speech(draw: torch.Generator) -> Inputs:
    return {"input_features": torch.randn(5, 4, 20, generator=draw), "labels": texts(draw)["labels"]}


def pictures(draw: torch.Generator) -> Inputs:
    return {"pixel_values": torch.randn(5, 3, 8, 8, generator=draw), "labels": torch.tensor([0, 1, 2, 1, 0])}


def questions(draw: torch.Generator) -> Inputs:
    """On one picture each, of four patches."""
    found = texts(draw)
    found["input_ids"][:, :4] = IMAGE
    found["labels"][:, :4] = -100
    return found | {"pixel_values": torch.randn(5, 3, 8, 8, generator=draw)}


def patches(draw: torch.Generator) -> Inputs:
    """The same as Qwen2-VL has them: the patches of all pictures in one row, four of which make a token."""
    found = questions(draw)
    found["input_ids"][:, 0] = VOCABULARY - 2  # a picture begins
    found["input_ids"][:, 2:4] = 5
    found["pixel_values"] = torch.randn(5 * 4, 3 * 2 * 4 * 4, generator=draw)
    found["image_grid_thw"] = torch.tensor([[1, 2, 2]] * 5)
    return found if OLD else found | {"mm_token_type_ids": (found["input_ids"] == IMAGE).int()}


def llama() -> nn.Module:
    """Its layers are as wide as a block that is quantised together."""
    return LlamaForCausalLM(LlamaConfig(**DECODER | {"hidden_size": 64, "intermediate_size": 64}))


def quantised(**settings: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        pytest.importorskip("bitsandbytes")
        with TemporaryDirectory() as directory:
            llama().save_pretrained(directory)
            config = BitsAndBytesConfig(**settings)
            loaded = LlamaForCausalLM.from_pretrained(directory, quantization_config=config, torch_dtype=torch.float32)
        return prepare_model_for_kbit_training(loaded, use_gradient_checkpointing=False)

    return make


def t5() -> nn.Module:
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**COMMON, **sizes, decoder_start_token_id=1))


def bart() -> nn.Module:
    return BartForConditionalGeneration(BartConfig(**SEQ2SEQ, **SIDES, max_position_embeddings=32))


def vit() -> nn.Module:
    return ViTForImageClassification(ViTConfig(**SIZES, image_size=8, patch_size=4, num_labels=3))


def whisper() -> nn.Module:
    sizes = {"num_mel_bins": 4, "max_source_positions": 10, "max_target_positions": 16}
    return WhisperForConditionalGeneration(WhisperConfig(**SEQ2SEQ, **SIDES, **sizes))


def mixtral(**settings: object) -> nn.Module:
    sizes = {"num_local_experts": 4, "num_experts_per_tok": 2}
    return MixtralForCausalLM(MixtralConfig(**DECODER, **sizes, **settings))


def llava() -> nn.Module:
    tower = {"model_type": "clip_vision_model", **SIZES, "image_size": 8, "patch_size": 4, "projection_dim": WIDTH}
    language = {"model_type": "llama", **DECODER}
    # The image's class token is left out; the state before the tower's last layer is what the language model sees.
    config = LlavaConfig(vision_config=tower, text_config=language, image_token_index=IMAGE, image_token_id=IMAGE)
    return LlavaForConditionalGeneration(config)


def qwen2_vl() -> nn.Module:
    vision = {"depth": 2, "embed_dim": WIDTH, "num_heads": 2, "mlp_ratio": 2, "hidden_size": WIDTH, "patch_size": 4}
    tokens = {"image_token_id": IMAGE, "vision_start_token_id": VOCABULARY - 2, "video_token_id": 4}
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2]}
    language = DECODER | {"rope_scaling": rope}
    if not OLD:
        language = {"text_config": language | {"rope_parameters": rope | {"rope_theta": 10000.0}}}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(vision_config=vision, **tokens, **language))


MODELS = {
    "QLoRA, nf4": Tuned(
        quantised(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True), texts, "all-linear"
    ),
    "QLoRA, fp4": Tuned(quantised(load_in_4bit=True, bnb_4bit_quant_type="fp4"), texts, "all-linear"),
    "QLoRA, int8": Tuned(
        quantised(load_in_8bit=True), texts, "all-linear", close=5e-3
    ),  # of another rounding of activations
    "T5": Tuned(t5, translations, ("q", "v"), causal=False),
    "BART": Tuned(bart, translations, causal=False),
    "Whisper": Tuned(whisper, speech, causal=False),
    "ViT": Tuned(vit, pictures, r".*attention\.(q_proj|v_proj|query|value)", causal=False),
    "Mixtral": Tuned(mixtral, texts),
    "LLaVA": Tuned(llava, questions),
    "Qwen2-VL": Tuned(qwen2_vl, patches),
}


def adapted(tuned: Tuned, **lora: object) -> nn.Module:
    torch.manual_seed(0)
    model = tuned.make()
    settings = {"r": 2, "target_modules": tuned.targets if isinstance(tuned.targets, str) else list(tuned.targets)}
    model = get_peft_model(model, LoraConfig(**settings | {"lora_dropout": 0.0} | lora)).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def part(inputs: Inputs, rows: slice) -> Inputs:
    """Of some examples."""
    found = {}
    for name, value in inputs.items():
        each = len(value) // 5  # of an example: a row, or all of its patches
        found[name] = value[rows.start * each : rows.stop * each]
    return found


def error(tuned: Tuned, logits: Tensor, labels: Tensor) -> Tensor:
    if tuned.causal:
        logits, labels = logits[:, :-1], labels[:, 1:]
    return nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())


def losses_of(tuned: Tuned, model: nn.Module, inputs: Inputs, parts: dict[str, slice]) -> dict[str, Tensor]:
    """By task, of one pass over some examples."""
    output = model(**inputs)
    balance = getattr(output, "aux_loss", None)  # of experts
    return {
        task: error(tuned, output.logits[rows], inputs["labels"][rows]) + (0 if balance is None else balance)
        for task, rows in parts.items()
    }


def alone(tuned: Tuned, model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """By task, each of a pass of its own."""
    found = {}
    for task, rows in EXAMPLES.items():
        found |= losses_of(tuned, model, part(inputs, rows), {task: slice(None)})
    return found


def autograd(losses: dict[str, Tensor], parameters: list[nn.Parameter]) -> list[Tensor]:
    """Of each block, those of every task, [T, out, in]."""
    found = [torch.autograd.grad(loss, parameters, allow_unused=True) for loss in losses.values()]
    return [
        torch.stack([torch.zeros_like(parameter) if g is None else g for g in of])
        for parameter, *of in zip(parameters, *found, strict=True)
    ]


@pytest.mark.parametrize("name", MODELS)
def test_a_mixed_batch_has_the_gradient_of_every_task(name):
    tuned = MODELS[name]
    model = adapted(tuned)
    inputs = tuned.inputs(torch.Generator().manual_seed(1))
    surgeon = OrthoLoRA(model, TASKS, "joint")
    parameters = [block.parameter for block in surgeon.blocks]
    own = autograd(alone(tuned, model, inputs), parameters)
    with surgeon.mixed_batch(TASK_OF_EXAMPLE):
        losses = losses_of(tuned, model, inputs, EXAMPLES)
        found = surgeon.collector.gather(sum(losses.values()), parameters)
        assert surgeon.check(losses) < 1e-5
        measured = surgeon.backward(losses)
    largest = max(truth.abs().max().item() for truth in own)
    assert largest > 0
    for gram, block_s, truth in zip(measured.gram, found, own, strict=True):
        apart = torch.zeros_like(truth) if block_s.parts is None else block_s.parts.unflatten(0, (2, 2)).sum(1)
        torch.testing.assert_close(apart, truth, rtol=1e-4, atol=tuned.close * largest)
        expected = truth.flatten(1) @ truth.flatten(1).T
        torch.testing.assert_close(gram.to(expected), expected, rtol=1e-3, atol=tuned.close * largest**2)


@pytest.mark.parametrize("evaluated", ["before", "after"])
def test_weights_of_qlora_are_differentiable_after_an_evaluation(evaluated):
    """Where a CPU has AVX512-BF16, bitsandbytes packs them for inference, and no gradient passes any more."""
    tuned = MODELS["QLoRA, nf4"]
    model, inputs = adapted(tuned), texts(torch.Generator().manual_seed(1))
    if evaluated == "before":
        with torch.no_grad():
            model(**inputs)
        if not any(getattr(part, "support_avx512bf16_for_cpu", False) for part in model.modules()):
            pytest.skip("not on this CPU")
        with pytest.raises(OrthoLoraError, match="has packed its weights for inference, .* load the model anew"):
            OrthoLoRA(model, TASKS)
        return
    surgeon = OrthoLoRA(model, TASKS, "joint")
    parameters = [block.parameter for block in surgeon.blocks]
    before = autograd(alone(tuned, model, inputs), parameters)
    with torch.no_grad():
        model(**inputs)
    for again, truth in zip(autograd(alone(tuned, model, inputs), parameters), before, strict=True):
        assert again.equal(truth)


def two_pictures(draw: torch.Generator) -> Inputs:
    """Before each text."""
    found = texts(draw)
    before = {"input_ids": IMAGE, "attention_mask": 1, "labels": -100}
    found = {name: torch.cat([torch.full((5, 8), before[name]), of], dim=1) for name, of in found.items()}
    return found | {"pixel_values": torch.randn(10, 3, 8, 8, generator=draw)}


def balanced() -> nn.Module:
    return mixtral(output_router_logits=True, router_aux_loss_coef=1.0)


REFUSED = {
    # Tokens are sent to experts: a layer of one sees those of all examples in one row.
    "the experts themselves": (
        Tuned(mixtral, texts, ("w1", "w2")),
        r"experts\.\d\.w., branch [AB]: it received \d+ rows for 5 examples, so",
    )
    if OLD
    else (
        Tuned(mixtral, texts, ()),
        r"mixed_batch needs plain LoRA on linear layers, and experts are not",
    ),
    "a term that balances experts": (Tuned(balanced, texts), "is off by .*a term that balances experts"),
    "a tower that sees all patches in one row": (
        Tuned(qwen2_vl, patches, r".*visual.*\.qkv"),
        r"visual\.blocks\.\d\.attn\.qkv, branch [AB]: it received 20 rows for 5 examples, so",
    ),
    "a tower that sees several pictures of an example": (
        Tuned(llava, two_pictures),
        r"vision_tower.*, branch [AB]: it received 10 rows for 5 examples, so",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_exact_in_a_mixed_batch_is_said_and_is_exact_in_passes_of_their_own(name):
    tuned, message = REFUSED[name]
    model = adapted(tuned, **{} if tuned.targets else {"target_parameters": ["experts.gate_up_proj"]})
    inputs = tuned.inputs(torch.Generator().manual_seed(1))
    surgeon = OrthoLoRA(model, TASKS, "joint")
    with (
        pytest.raises(OrthoLoraError, match=rf"{message}.*: give each task a forward pass .* surgeon\.backward\("),
        surgeon.mixed_batch(TASK_OF_EXAMPLE),
    ):
        surgeon.backward(losses_of(tuned, model, inputs, EXAMPLES))
    own = autograd(alone(tuned, model, inputs), [block.parameter for block in surgeon.blocks])
    measured = surgeon.backward(alone(tuned, model, inputs))
    for gram, truth in zip(measured.gram, own, strict=True):
        expected = truth.flatten(1) @ truth.flatten(1).T
        torch.testing.assert_close(gram.to(expected), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "stacks"),
    [("T5", ("encoder", "decoder")), ("Whisper", ("encoder", "decoder")), ("LLaVA", ("vision", "language"))],
)
def test_layers_of_two_stacks_have_names_of_their_own(name, stacks):
    found = module_infos(OrthoLoRA(adapted(MODELS[name]), TASKS).blocks)
    assert {layer_name(of.layer) for of in found} == {f"{stack}.{number}" for stack in stacks for number in (0, 1)}
    for of in found:
        side, _, number = layer_name(of.layer).partition(".")
        assert side in of.path
        assert f".{number}." in of.path


@pytest.mark.parametrize("name", MODELS)
def test_the_guide_has_a_row_of_it(name):
    rows = re.findall(r"^\| ([^|]+?) \|.*\| exact", GUIDE.partition("\n## Whole models")[2], re.MULTILINE)
    assert name in rows
