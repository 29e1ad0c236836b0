import re
from pathlib import Path

import pytest

from app.shared import glossary

ROOT = Path(__file__).resolve().parents[2]

WORDS = [  # of the design, each under the term that explains it
    "task", "module", "branch", "block", "pair", "conflict", "rule", "scope", "method", "joint", "ortho-lora", "pcgrad",
    "single", "gap recovery", "rank", "interval", "effective weight", "residual conflict", "verdict", "cosine",
    "gram matrix", "half batches", "replay", "dial",
]  # fmt: skip


def test_tooltip_explains_and_links_to_the_term():
    shown = glossary.help("cosine")
    assert shown.startswith("**Cosine**: How two gradients point")
    assert shown.endswith("[Glossary](learn#cosine)")


def test_unknown_term_is_refused_with_those_there_are():
    with pytest.raises(KeyError, match="no term 'cosinus' in the glossary; expected one of .*cosine"):
        glossary.help("cosinus")


def test_anchors_are_fit_for_an_address():
    assert all(re.fullmatch("[a-z]+(-[a-z]+)*", anchor) for anchor in glossary.TERMS)


def test_every_sentence_leads_to_a_term_that_exists():
    sources = "".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    linked = set(re.findall(r"\]\(learn#([^){]*)\)", sources))
    assert len(linked) > 10
    assert linked <= set(glossary.TERMS)


@pytest.mark.parametrize(
    ("page", "terms"),
    [
        ("start", "adapter gradient conflict cosine projection"),
        ("launch", "method rule scope block order rank noise dial"),
        ("runs", "method task"),
        (
            "conflicts",
            "conflict cosine gradient noise corrected-cosine verdict block",
        ),
        ("layers", "conflict adapter block projection gram-matrix"),
        ("projection", "projection rule scope block residual-conflict update effective-weight replay gram-matrix"),
        ("metrics", "method gap-recovery"),
        ("diagnosis", "verdict pair cosine interval corrected-cosine"),
    ],
)
def test_page_leads_to_the_terms_that_it_uses(page, terms, add_run, open_page, unfold):
    add_run("only")
    test = open_page(page, block="value B, layer 1")
    if page == "projection":
        unfold(test, "update")
    shown = "".join(str(element.proto) for element in test.main)
    assert {term for term in terms.split() if f"(learn#{term})" not in shown} == set()


@pytest.mark.parametrize("word", WORDS)
def test_every_word_of_the_design_is_explained(word):
    text = " ".join(f"{term.name} {term.meaning}" for term in glossary.TERMS.values()).lower()
    assert word in text


def test_a_conflict_rate_is_never_explained_without_chance():
    assert "by chance" in glossary.help("conflict-rate")
