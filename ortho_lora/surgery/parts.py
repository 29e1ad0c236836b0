"""The weight gradient of a linear layer, taken apart into what each half of each task's batch contributes.

It is a sum over the rows of (output gradient) x (input); `halves` says which rows belong to which part.
"""

from collections.abc import Sequence

from torch import Tensor

from ortho_lora.surgery.halves import Rows, one_hot


def weight_gradients(inputs: Tensor, gradient: Tensor, groups: int) -> Tensor:
    """(output gradient) x (input), summed over each of `groups` runs of rows of one length.

    Args:
        inputs: of the layer, `[n, ..., in]`; n is a multiple of `groups`.
        gradient: of its output, `[n, ..., out]`.
        groups: how many.

    Returns:
        `[groups, out, in]`
    """
    rows = gradient.reshape(groups, -1, gradient.shape[-1])  # [groups, tokens, out]
    columns = inputs.reshape(groups, -1, inputs.shape[-1])  # [groups, tokens, in]
    if rows.shape[-1] <= columns.shape[-1]:
        return rows.mT @ columns
    # With the short side first the product is several times as fast on a CPU (benchmarks/steps.py is where it shows).
    return (columns.mT @ rows).mT.contiguous()


def misfit(inputs: Tensor, rows: Rows) -> str | None:
    """Why the rows of a layer's input are not the examples of a pass; None: they are."""
    if rows.lengths is None:
        fits = len(inputs) == len(rows.parts)
        return None if fits else f"it received {len(inputs)} rows for {len(rows.parts)} examples"
    tokens, wanted = inputs.shape[:-1].numel(), sum(rows.lengths)
    fits = tokens >= wanted  # what follows the last example is padding
    return None if fits else f"it received {tokens} tokens for {len(rows.parts)} examples of {wanted}"


def parts_of(inputs: Tensor, gradient: Tensor, rows: Rows) -> Tensor:
    """Each part's share of a weight gradient.

    Args:
        inputs: of the layer, without a `misfit`: `[N, ..., in]` of N examples; or of their tokens, behind each other in
            whatever dimensions come before the last.
        gradient: of its output, with `out` in place of `in`.
        rows: the examples.

    Returns:
        `[2T, out, in]`; zeros for a part that has no example.
    """
    if rows.lengths is not None:
        inputs, gradient = inputs.flatten(0, -2), gradient.flatten(0, -2)
        found = inputs.new_zeros(2 * rows.tasks, gradient.shape[-1], inputs.shape[-1])
        for part, tokens in rows.runs:
            found[part] += share_of(inputs, gradient, tokens)
        return found
    if rows.regular:
        return weight_gradients(inputs, gradient, 2 * rows.tasks)
    each = weight_gradients(inputs, gradient, len(rows.parts))  # [N, out, in]
    return (one_hot(rows, each.device, each.dtype) @ each.flatten(1)).view(-1, *each.shape[1:])


def share_of(inputs: Tensor, gradient: Tensor, places: slice | Sequence[int]) -> Tensor:
    """What some of the rows contribute, `[out, in]`."""
    return weight_gradients(inputs[places], gradient[places], 1)[0]
