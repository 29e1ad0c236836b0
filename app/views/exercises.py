"""The questions of the lesson: asked before the answer is shown, and listed with their answers for who teaches."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

_browser = st.components.v2.component("lesson", js=Path(__file__).with_name("lesson.js").read_text(encoding="utf-8"))
_BROWSER = "lesson-browser"


@dataclass(frozen=True)
class Exercise:
    """A question with choices, one of which is right."""

    key: str
    question: str
    choices: tuple[str, ...]
    right: int
    why: str
    """The answer in a sentence or two, in Markdown."""

    def ask(self) -> bool | None:
        """Whether the reader's guess is right; None before there is one."""
        guess: str | None = st.radio(
            self.question, self.choices, index=None, key=f"lesson-{self.key}", persist_state="session"
        )
        return None if guess is None else guess == self.choices[self.right]

    def tell(self, right: bool, more: str = "") -> None:  # the guess
        """The answer, and what to see of it."""
        st.markdown(f"{'Right' if right else 'Not so'}: {self.why}{more}")


ZERO = Exercise(
    "zero",
    "LoRA adds B A x to a layer, and starts with B = 0. Which matrices have a gradient in the very first step?",
    ("both", "only A", "only B"),
    2,
    "only B. What A does goes through B, so its gradient is a multiple of B, which is 0. One step later B is not, and"
    " both have one. No cosine of A can be told at step 0.",
)
DIAL = Exercise(
    "dial",
    "Half of the labels flipped, ρ = 0.5: where will the cosine of the two gradients lie?",
    ("near -1: they disagree on half of all texts", "near -0.5", "near 0", "near +0.5"),
    2,
    "half of the texts pull together and half apart, so the sum of it is about 1 - 2ρ = 0, with a scatter from"
    " the few texts of a batch. At ρ = 1 all that one gradient asks, the other forbids: projection removes nearly"
    " all of both, and the plain sum cancels. **No method can learn both through one head.**",
)
OWN_HEAD = Exercise(
    "own-head",
    "What will the two gradients on the shared adapter do?",
    ("conflict as before, near -1", "conflict half as much", "agree after a few steps"),
    2,
    "with two heads they come to agree.",
)
WHY = Exercise(
    "why",
    "Why?",
    (
        "the adapter learns to ignore the twin",
        "the second head learns the opposite sign, so both ask the adapter for the same thing",
        "AdamW cancels the conflict",
    ),
    1,
    "the second head learns the opposite sign. To tell good from bad is one skill, whatever the answer is called. Once"
    " the twin's head has turned its sign, both tasks ask the adapter to separate the same texts. **Conflict lives in"
    " what the shared adapter must represent, not in the labels.**",
)
UNRELATED = Exercise(
    "unrelated",
    "In which share of steps and matrices will their cosine be below 0, a “conflict”?",
    ("about 5%: they have nothing to quarrel about", "about 20%", "about 50%"),
    2,
    "about half. A batch's gradient is mostly [noise](learn#noise), which scatters around a right angle, and half of"
    " what scatters around 0 is negative. Projection would be at work in half of all measurements, on chance. **Read a"
    " [conflict rate](learn#conflict-rate) only beside the [verdict](learn#verdict)**.",
)
HARM = Exercise(
    "harm",
    "What does a step for `tweets` do to the validation loss of `trec`?",
    ("nothing that one could be sure of", "it harms", "it helps"),
    1,
    "it harms, and that is sure. A cosine does not say how long gradients are; [transfer](learn#transfer) is in nats of"
    " the loss on held-out texts. And AdamW divides a step by what all tasks' gradients come to, so that even a task"
    " at a right angle takes room from another ([crowding](learn#pull)).",
)
EXERCISES = {
    "Nothing at the start": (ZERO,),
    "Turn the dial": (DIAL,),
    "The same quarrel, two heads": (OWN_HEAD, WHY),
    "Two tasks that have nothing to do with each other": (UNRELATED,),
    "Hardly a conflict, and yet": (HARM,),
}
"""By the title of the act, in order; an act's link is `learn#lesson-KEY` of its first."""


def progress() -> None:
    """How many have a guess. The browser keeps them: whoever comes back goes on, on this machine alone."""
    every = [one for several in EXERCISES.values() for one in several]
    guesses = {one.key: guess for one in every if (guess := st.session_state.get(f"lesson-{one.key}")) is not None}
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"Guess, then see: {len(guesses)} of {len(every)} answered.", width="content")
        if guesses:
            st.button("Start over", key="lesson-forget", type="tertiary", on_click=_forget, args=(every,))
        data = {"guesses": guesses, "forget": bool(st.session_state.pop("lesson-forgotten", False))}
        _browser(data=data, key=_BROWSER, on_kept_change=lambda: _take(every), width=1, height=1)


def _take(every: list[Exercise]) -> None:
    """The guesses of an earlier visit, where there is none yet and the choice still exists."""
    kept: dict[str, Any] = st.session_state[_BROWSER].kept or {}
    for one in every:
        if kept.get(one.key) in one.choices and st.session_state.get(f"lesson-{one.key}") is None:
            st.session_state[f"lesson-{one.key}"] = kept[one.key]


def _forget(every: list[Exercise]) -> None:
    for one in every:
        st.session_state[f"lesson-{one.key}"] = None
    st.session_state["lesson-forgotten"] = True


def for_teachers() -> None:
    """All of them with their answers and links, where asked for."""
    if not st.toggle("For who teaches: all exercises with their answers", key="teach", bind="query-params"):
        return
    for title, several in EXERCISES.items():
        st.markdown(f"**[{title}](learn#lesson-{several[0].key})**")
        st.markdown("\n".join(f"- {one.question} *{one.choices[one.right]}.* Told then: {one.why}" for one in several))
