"""What layers, steps and methods are called wherever they are shown."""


def layer_name(layer: int) -> str:
    """A layer as shown: its index, or `other` for modules outside the numbered layers."""
    return "other" if layer < 0 else str(layer)


def span(first: int, last: int) -> str:
    """`step 3` or `steps 3 to 8`."""
    return f"step {first}" if first == last else f"steps {first} to {last}"


def method_name(rule: str, scope: str, branches: str) -> str:
    """Like `pcgrad @ block, A only`; the plain sum is the same at every scope."""
    if rule == "sum":
        return "sum"
    return f"{rule} @ {scope}{'' if branches == 'both' else f', {branches} only'}"
