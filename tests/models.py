"""Small randomly initialised models with LoRA, in float64 so that sums in another order agree closely."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BertConfig, BertModel

from ortho_lora.adapters import Block


def tiny_bert(seed: int = 0, layers: int = 2, **lora: object) -> PeftModel:
    """A BERT of width 16 with LoRA on query and value whose B is not zero, so that A has gradients."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    encoder = BertModel(config, add_pooling_layer=False).double()
    settings = {"r": 3, "lora_alpha": 6, "target_modules": ["query", "value"], "lora_dropout": 0.0} | lora
    model = get_peft_model(encoder, LoraConfig(**settings)).double()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def parameters(blocks: list[Block]) -> list[torch.nn.Parameter]:
    """The blocks' parameters."""
    return [block.parameter for block in blocks]
