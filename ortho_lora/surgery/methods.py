"""Names of what is done to conflicting gradients, importable without torch."""

from dataclasses import dataclass
from typing import Literal, get_args

Rule = Literal[
    "sum", "pcgrad", "pcgrad-inplace", "gradvac",
    "mgda", "upgrad", "cagrad", "imtl-g", "aligned-mtl", "fairgrad", "nash-mtl",
]  # fmt: skip
"""How the tasks' gradients are combined; those of the second line weigh them, through the `torchjd` package."""
Scope = Literal["block", "module", "model"]
"""What shares one projection: a LoRA matrix, an adapted layer (A and B), or the whole model."""
Branches = Literal["both", "A", "B"]
"""The branches that the rule is applied to; the other takes the plain sum."""
Order = Literal["random", "fixed", "mean"]
"""The order in which tasks are taken: drawn anew each step, as configured, or the mean over all (up to 5 tasks)."""
OnNonfinite = Literal["stop", "skip"]
"""Where a loss or gradient is not finite: raise before the optimizer has seen the step, or leave the step out."""

RULES: tuple[Rule, ...] = get_args(Rule)
LARGEST_MEAN = 5
"""Tasks up to which the mean over all orders is taken: 120 orders."""
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Method:
    """A rule, what it is applied to, and at which scope."""

    rule: Rule
    scope: Scope = "block"
    branches: Branches = "both"

    def changed(self, rule: Rule | None, scope: Scope | None, branches: Branches | None) -> "Method":
        """With the parts that are given in place of its own."""
        return Method(rule or self.rule, scope or self.scope, branches or self.branches)


METHODS: dict[str, Method] = {
    "joint": Method("sum"),
    "ortho-lora": Method("pcgrad"),  # arXiv 2601.09684
    "ortho-lora-a": Method("pcgrad", branches="A"),
    "ortho-lora-b": Method("pcgrad", branches="B"),
    "pcgrad": Method("pcgrad", "model"),  # arXiv 2001.06782
    "single": Method("sum"),  # with one adapter for each task
}


def name_of(method: Method) -> str:
    """Its name, or `rule@scope` (`rule@scope-a` on one branch) where it has none."""
    for name, known in METHODS.items():
        if known == method and name != "single":
            return name
    return f"{method.rule}@{method.scope}" + ("" if method.branches == "both" else f"-{method.branches.lower()}")
