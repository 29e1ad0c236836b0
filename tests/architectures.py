"""Small randomly initialised models of many architectures, each in a directory as transformers loads it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AlbertConfig,
    AutoModel,
    BartConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
)

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
WORDS = [f"w{number}" for number in range(46)]
VOCABULARY = len(SPECIAL) + len(WORDS)
WIDTH, LAYERS, POSITIONS = 16, 2, 32

SIZES = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 32}
COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
SEATS = {"max_position_embeddings": POSITIONS}
T5_SIZES = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": LAYERS, "num_heads": 2}
BART_SIZES = {"d_model": WIDTH, "decoder_start_token_id": 2} | {
    f"{side}_{what}": size
    for side in ("encoder", "decoder")
    for what, size in {"layers": LAYERS, "attention_heads": 2, "ffn_dim": 32}.items()
}


@dataclass(frozen=True)
class Architecture:
    """How a model is made, and what is expected of training it with the default configuration."""

    config: Callable[[], PretrainedConfig]
    modules: tuple[str, ...]  # in the record
    layers: int = LAYERS
    mode: str = "fused"
    causal: bool = False
    longest: int | None = POSITIONS  # tokens that it takes


def _with(kind: type[PretrainedConfig], **settings: object) -> Callable[[], PretrainedConfig]:
    return lambda: kind(**COMMON, **settings)


ARCHITECTURES = {
    # Positions count from the row after padding's.
    "roberta": Architecture(
        _with(RobertaConfig, **SIZES, **SEATS, type_vocab_size=1), ("query", "value"), longest=POSITIONS - 2
    ),
    "xlm-roberta": Architecture(_with(XLMRobertaConfig, **SIZES, **SEATS), ("query", "value"), longest=POSITIONS - 2),
    "mpnet": Architecture(_with(MPNetConfig, **SIZES, **SEATS), ("q", "v"), longest=POSITIONS - 2),
    "distilbert": Architecture(
        _with(DistilBertConfig, dim=WIDTH, n_layers=LAYERS, n_heads=2, hidden_dim=32, **SEATS), ("q_lin", "v_lin")
    ),
    "electra": Architecture(_with(ElectraConfig, **SIZES, **SEATS, embedding_size=8), ("query", "value")),
    "albert": Architecture(_with(AlbertConfig, **SIZES, **SEATS, embedding_size=8), ("query", "value"), layers=1),
    "deberta-v2": Architecture(
        _with(DebertaV2Config, **SIZES, **SEATS, relative_attention=True, pos_att_type=["p2c", "c2p"]),
        ("query_proj", "value_proj"),
    ),
    # As the published version 3: the projection of words is that of relative positions too.
    "deberta-v3": Architecture(
        _with(
            DebertaV2Config, **SIZES, **SEATS, relative_attention=True, pos_att_type=["p2c", "c2p"],
            share_att_key=True, position_buckets=8, norm_rel_ebd="layer_norm", position_biased_input=False,
            type_vocab_size=0,
        ),
        ("query_proj", "value_proj"), mode="sequential",
    ),
    "modernbert": Architecture(
        _with(ModernBertConfig, **SIZES, **SEATS, cls_token_id=0, sep_token_id=2, local_attention=4), ("Wqkv",)
    ),
    "t5": Architecture(_with(T5Config, **T5_SIZES), ("q", "v"), longest=None),
    "bart": Architecture(_with(BartConfig, **BART_SIZES, **SEATS), ("q_proj", "v_proj")),
    "gpt2": Architecture(
        _with(GPT2Config, n_embd=WIDTH, n_layer=LAYERS, n_head=2, n_positions=POSITIONS), ("c_attn",), causal=True
    ),
    "opt": Architecture(
        # Its states are narrower than its layers.
        _with(OPTConfig, **SIZES | {"hidden_size": 24}, **SEATS, ffn_dim=32, word_embed_proj_dim=WIDTH),
        ("q_proj", "v_proj"), causal=True,
    ),
    "llama": Architecture(
        _with(LlamaConfig, **SIZES, **SEATS, num_key_value_heads=1), ("q_proj", "v_proj"), causal=True
    ),
}  # fmt: skip


def tokenizer(**settings: object) -> PreTrainedTokenizerFast:
    """One token a word, <s> before and </s> after; like the tokenizers of its class it tells the types of tokens."""
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | settings
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=plain, model_input_names=inputs, **names)


def write_model(architecture: Architecture, directory: Path) -> Path:
    """A directory with config.json, model.safetensors and the tokenizer's files; decoders have no padding token."""
    torch.manual_seed(0)
    AutoModel.from_config(architecture.config()).save_pretrained(directory)
    tokenizer(**{} if architecture.causal else {"pad_token": "<pad>"}).save_pretrained(directory)
    return directory
