"""The words of the project, each with what it means. The Learn page shows them; tooltips and sentences lead there.

A sentence leads to a term in plain Markdown, like `[a cosine](learn#cosine)`; a test knows the anchors.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A word and its meaning, in Markdown."""

    name: str
    meaning: str


TERMS = {
    "task": Term("Task", "One thing to learn, with data, a loss and a metric of its own; several share the adapter."),
    "adapter": Term(
        "Adapter",
        "What LoRA trains in place of the model's own weights: to the output W x of an adapted layer it adds B A x,"
        " with two small matrices. `B` starts at zero, so every gradient of `A` is exactly zero in the first step.",
    ),
    "rank": Term(
        "Rank",
        "How many rows `A` has, and columns `B`: the room that the tasks share. A higher rank gives them more, and"
        " often does more against conflict than any rule.",
    ),
    "block": Term(
        "Block, module, branch",
        "A *module* is one adapted layer, a *branch* is `A` or `B`, and a *block* is one branch of one module: one"
        " matrix. Gradients are compared block by block.",
    ),
    "pair": Term("Pair", "Two tasks, in no order. T tasks make T (T - 1) / 2 pairs."),
    "gradient": Term(
        "Gradient",
        "The direction in which a task's loss rises fastest. Training steps against it: the update is subtracted.",
    ),
    "cosine": Term(
        "Cosine",
        "How two gradients point: +1 the same way, 0 at right angles, -1 exactly against each other. Their lengths do"
        " not matter. Where a gradient is zero there is no cosine: null, which is never 0.",
    ),
    "conflict": Term(
        "Conflict",
        "A cosine below 0: a step for one task alone raises the loss of the other, to first order. Always red here."
        " A *verdict* of conflict says that it is more than chance.",
    ),
    "conflict-rate": Term(
        "Conflict rate",
        "The share of measured cosines below 0. Unrelated tasks scatter around 0, so about half of theirs are negative"
        " *by chance*: a rate of 50% with a mean near 0 is what noise looks like. Never read it alone.",
    ),
    "gram-matrix": Term(
        "Gram matrix",
        "All inner products of the tasks' gradients on one block, K_ij = ⟨g_i, g_j⟩. Cosines, norms, conflicts and all"
        " that a rule does follow from it, so the record keeps nothing else of the gradients.",
    ),
    "projection": Term(
        "Projection",
        "Taking from a gradient what points against another: g_i - ⟨g_i, g_j⟩ / |g_j|² g_j, done where the inner"
        " product is negative. What is left is at right angles to g_j.",
    ),
    "rule": Term(
        "Rule",
        "What is made of the tasks' gradients. `sum`: nothing. `pcgrad`: each is projected against the *original*"
        " others that it conflicts with. `pcgrad-inplace`: against what is left of them, as the paper's Algorithm 1 is"
        " printed. `gradvac`: each is turned until its cosine reaches a goal, a moving average of what was measured.",
    ),
    "scope": Term(
        "Scope",
        "The part of the adapter that a rule looks at at once: each `block`, each `module`, or the whole `model`. The"
        " Gram matrix of a scope is the sum of its blocks'.",
    ),
    "method": Term(
        "Method",
        "A rule and a scope under a name. `joint` is the plain sum; `ortho-lora` is pcgrad on each block; `pcgrad` is"
        " pcgrad on the whole model; `single` trains one adapter for each task. With `groups` each group of tasks has"
        " an adapter, in which the method works as usual.",
    ),
    "order": Term(
        "Order",
        "In which the tasks take their turns within a step. It is drawn anew each step and recorded, so that a step"
        " can be replayed. With two tasks it matters in place only; with three it matters always.",
    ),
    "update": Term(
        "Update",
        "The sum of all gradients after the rule. It is a weighted sum of the original ones.",
    ),
    "effective-weight": Term(
        "Effective weight",
        "What a task's own gradient counts in the update after all: 1 in the plain sum. Above 1, others that were"
        " projected against it now carry a part of it.",
    ),
    "first-order-change": Term(
        "First-order change",
        "What a small step does to a task's loss: -⟨g_i, update⟩ times the learning rate. Below 0 the update helps the"
        " task, above 0 it hurts it. A real step is not small, and adaptive optimizers bend it.",
    ),
    "residual-conflict": Term(
        "Residual conflict",
        "A cosine still below 0 after the rule. With three or more tasks, leaving the way of one can lead into that of"
        " another. Two gradients that pcgrad projects always agree afterwards, by as much as they conflicted.",
    ),
    "interval": Term(
        "Interval",
        "Where a number lies with 95% confidence. Neighbouring steps are alike, so an error is told from 3 to 16 groups"
        " of them, and of a snapshot from its groups of texts; a cosine's may be all of -1 to 1, which says that"
        " nothing is known yet.",
    ),
    "noise": Term(
        "Batch noise",
        "A batch shows a few examples, so its gradient is the task's own plus chance. With small batches chance is"
        " most of it, and pulls every cosine between tasks towards 0.",
    ),
    "same-task-cosine": Term(
        "Same-task cosine",
        "The cosine of the gradients of two halves of one task's batch: the baseline. A task cannot be expected to"
        " agree with another better than with itself.",
    ),
    "corrected-cosine": Term(
        "Cosine without noise",
        "The cosine of two tasks' mean gradients. A *snapshot* measures it; in a run without one it is what single"
        " batches show, divided by how well half batches of each task agree. Where that is unclear only its interval is"
        " known.",
    ),
    "snapshot": Term(
        "Snapshot",
        "Gradients of many batches of every task at one place, while nothing is trained. Texts fall into groups, and"
        " only gradients of different groups are multiplied, so no text's noise stands on both sides. *As AdamW"
        " scales*: each coordinate divided by the root of the optimizer's second moment, which is what a step takes;"
        " *plain*: the gradients themselves, which a projection sees.",
    ),
    "verdict": Term(
        "Verdict",
        "On the cosine without noise, for all pairs at once. *Conflict*: below 0 by more than chance, and it may be"
        " below -0.2. *Aligned*: above 0 by more than chance. *No conflict worth the name*: the interval excludes -0.2."
        " *Not enough data*: none of these.",
    ),
    "magnitude-similarity": Term(
        "Magnitude similarity",
        "2 n_i n_j / (n_i² + n_j²) of two norms: 1 where they are equal, near 0 where one drowns the other.",
    ),
    "transfer": Term(
        "Transfer",
        "What training on one task does to another's validation loss, in nats a step: with the task in the mixture"
        " minus without it, to first order, from held-out texts of the other. Below 0 it helps.",
    ),
    "pull": Term(
        "Pull and crowding",
        "AdamW divides a step by the root of the second moment of the tasks' *summed* gradient. So a task acts on"
        " another twice: by its own gradient (*pull*), and by what it does to the step sizes that all tasks share"
        " (*crowding*): large gradients of one make the others' steps small.",
    ),
    "dial": Term(
        "Conflict dial",
        "A *twin* of a task draws the same texts in the same step under the same head, its labels flipped with"
        " probability ρ. The cosine of the two is then about 1 - 2 ρ: a conflict whose true size is known.",
    ),
    "head": Term(
        "Head",
        "The last layer, from the text's vector to a task's answer. Each task has its own (but for the dial's twin),"
        " and it takes its own plain gradient. A head can absorb a disagreement of labels: conflict lives in what the"
        " shared adapter must represent.",
    ),
    "gap-recovery": Term(
        "Gap recovery",
        "(method - joint) / (single - joint) of a metric: the share of what joint training lost that a method wins"
        " back. It means nothing where joint training lost nothing.",
    ),
    "replay": Term(
        "Replay",
        "What another rule or scope would have made of the recorded gradients: exact for each step, but one step ahead"
        " only, as it would not have met the later ones.",
    ),
}  # fmt: skip
"""By anchor on the Learn page."""


def link(anchor: str) -> str:
    """Address of a term, for the pages of this app.

    Raises:
        KeyError: there is no such term.
    """
    return f"learn#{_known(anchor)}"


def help(*anchors: str) -> str:
    """Tooltip of terms, in Markdown: what each means, and a link to it on the Learn page.

    Raises:
        KeyError: there is no such term.
    """
    return "\n\n".join(
        f"**{TERMS[_known(anchor)].name}**: {TERMS[anchor].meaning} [Glossary]({link(anchor)})" for anchor in anchors
    )


def _known(anchor: str) -> str:
    if anchor not in TERMS:
        raise KeyError(f"no term {anchor!r} in the glossary; expected one of {', '.join(TERMS)}.")
    return anchor
