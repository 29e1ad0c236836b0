"""Numbers and names of layers, with one stack and with several."""

import pytest

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.layers import STACKS, layer_name, layer_of, numbers


def names(*paths):
    return [layer_name(number) for number in numbers(paths)]


def test_with_one_stack_layers_are_their_numbers():
    assert numbers(["model.layers.0.q", "model.layers.0.v", "model.layers.11.q", "lm_head"]) == [0, 0, 11, -1]
    # Experts, and blocks inside of stages, are inside of one stack.
    assert numbers(["layers.3.experts.0.w1", "layers.3.experts.1.w1", "layers.4.experts.0.w1"]) == [3, 3, 4]


def test_stacks_whose_numbers_differ_need_no_names():
    assert numbers(["down.0.q", "middle.4.q", "up.7.q"]) == [0, 4, 7]


@pytest.mark.parametrize(
    ("stacks", "expected"),
    [
        (("encoder.block", "decoder.block"), ("encoder", "decoder")),
        (("base_model.model.model.encoder.layers", "base_model.model.model.decoder.layers"), ("encoder", "decoder")),
        (("model.vision_tower.encoder.layers", "model.language_model.layers"), ("vision", "language")),
        (("visual.blocks", "language_model.layers"), ("vision", "language")),
        (("vision_model.encoder.layers", "text_model.encoder.layers"), ("vision", "text")),
        (
            ("v.encoder.layer", "qformer.encoder.layer", "language_model.layers"),
            ("encoder", "query", "language"),
        ),
        (("one.layers", "other.layers", "third.layers"), ("stack1", "stack2", "stack3")),
        (("layers", "head.layers"), ("stack1", "stack2")),
    ],
)
def test_stacks_with_the_same_numbers_are_named(stacks, expected):
    paths = [f"{stack}.{number}.q" for stack in stacks for number in (0, 9, 10)]
    assert names(*paths) == [f"{stack}.{number}" for stack in expected for number in (0, 9, 10)]
    assert len(set(numbers(paths))) == len(paths)


def test_names_sort_and_read_back():
    known = ["other", "0", "9", "10", "encoder.0", "encoder.9", "encoder.10", "decoder.0", f"{STACKS[-1]}.999"]
    found = [layer_of(name) for name in known]
    assert found == sorted(found)
    assert [layer_name(number) for number in found] == known
    assert max(found) < 2**15  # as in the tables


@pytest.mark.parametrize("name", ["", "x", "encoder", "encoder.", "tower.0", "-1", "encoder.x"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(OrthoLoraError, match=rf"^layer {name}: expected a number, other, or .* as encoder\.0\.$"):
        layer_of(name)
