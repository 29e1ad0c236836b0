"""Numbers of layers, which tell the stacks of a model apart where it has several, and their names.

A model with one stack has layers 0, 1, ... Where two stacks have layers of one number, as an encoder and a decoder, or
a tower for pictures and a language model, a layer's number is 1000 x the place of its stack in `STACKS` + its own:
numbers sort as layers do, stack by stack, and `layer_name` needs nothing else.
"""

import os
import re
from collections.abc import Sequence

from ortho_lora.errors import OrthoLoraError

PER_STACK = 1000
_KINDS = {  # by what the parts of a path hold that other stacks do not share; the first that fits and is not taken
    "vision": ("vision", "visual", "image"),
    "audio": ("audio", "speech"),
    "query": ("qformer",),
    "text": ("text",),
    "language": ("language",),
    "encoder": ("encoder",),
    "decoder": ("decoder",),
}
STACKS = ("", "encoder", "decoder", "vision", "audio", "query", "text", "language", *(f"stack{n}" for n in range(1, 9)))
"""Their names; the first is that of a model's only one. Added to at the end alone: records have their places."""


def layer_name(layer: int) -> str:
    """As shown: its number, `encoder.0` where a model has several stacks, or `other` outside of numbered layers."""
    if layer < 0:
        return "other"
    stack, number = divmod(layer, PER_STACK)
    return f"{STACKS[stack]}.{number}" if stack else str(number)


def layer_of(name: str) -> int:
    """The number of a layer by its name.

    Raises:
        OrthoLoraError: it is none.
    """
    if name == "other":
        return -1
    stack, _, number = name.rpartition(".")
    if stack not in STACKS or not number.isdecimal():
        raise OrthoLoraError(f"layer {name}: expected a number, other, or a stack's name and a number, as encoder.0.")
    return PER_STACK * STACKS.index(stack) + int(number)


def numbers(paths: Sequence[str]) -> list[int]:
    """Of modules by their paths inside a model: the first number of each, apart by stacks; -1: none."""
    found = [re.search(r"\.(\d+)\.", path) for path in paths]
    before = [path[: of.start()] if of else None for path, of in zip(paths, found, strict=True)]
    own = [int(of[1]) if of else -1 for of in found]
    stacks: dict[str, set[int]] = {}
    for stack, number in zip(before, own, strict=True):
        if stack is not None:
            stacks.setdefault(stack, set()).add(number)
    if sum(map(len, stacks.values())) == len(set().union(*stacks.values())):
        return own  # no number stands for two layers
    places = dict(zip(stacks, _places(list(stacks)), strict=True))
    return [
        number if stack is None else PER_STACK * places[stack] + number
        for stack, number in zip(before, own, strict=True)
    ]


def _places(stacks: Sequence[str]) -> list[int]:
    """In `STACKS`, of stacks by their paths: each has one of its own."""
    shared = len(os.path.commonpath([stack.replace(".", "/") for stack in stacks]))
    found: list[int] = []
    for stack in stacks:
        own = stack[shared:].lower()
        kinds = [kind for kind, words in _KINDS.items() if any(word in own for word in words)]
        free = [STACKS.index(kind) for kind in (*kinds, *STACKS[STACKS.index("stack1") :])]
        found.append(next((place for place in free if place not in found), free[-1]))
    return found
