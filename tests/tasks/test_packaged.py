"""The packaged tasks, on the real archives."""

import subprocess
import sys

import numpy as np
import pytest

from ortho_lora.assets.archives import ARCHIVES
from ortho_lora.tasks.packaged import PACKAGED, load_packaged

# Distinct texts, (training, validation) examples.
SIZES = {
    "trec": (4298, 1082),
    "spam": (3578, 933),
    "tweets": (29643, 7511),
    "movies": (10385, 2366),
    "news": (1681, 415),
}


@pytest.fixture(scope="module", params=list(PACKAGED))
def task(request):
    return load_packaged(request.param)


def test_sizes(task):
    assert (len(task.train), len(task.evaluation["validation"])) == SIZES[task.name]


def test_every_text_is_there_once_and_in_one_split(task):
    keys = [*task.train.keys, *task.evaluation["validation"].keys]
    assert len(keys) == len(set(keys))
    assert all(keys)


def test_every_class_is_in_both_splits(task):
    for split in (task.train, task.evaluation["validation"]):
        assert split.labels.dtype == np.int64
        assert sorted(set(split.labels.tolist())) == list(range(task.outputs))


def test_loading_twice_gives_the_same(task):
    again = load_packaged(task.name)
    assert again.train.texts == task.train.texts
    np.testing.assert_array_equal(again.train.labels, task.train.labels)


def test_provenance_is_stated():
    for task in PACKAGED.values():
        assert task.package in ARCHIVES
        assert task.description
        assert task.origin
        assert task.licence


def test_known_rows():
    trec = load_packaged("trec")
    assert (trec.train.texts[0], trec.classes[trec.train.labels[0]]) == (
        "How did serfdom develop in and then leave Russia ?",
        "DESC",
    )
    news = load_packaged("news")
    assert news.classes[news.train.labels[news.train.texts.index("Dollar gains on Greenspan speech")]] == "business"


def test_films_are_in_one_split():
    rows = PACKAGED["movies"].rows()
    film = dict(zip(rows["text"].str.strip(), rows["group"], strict=True))  # of a text's last occurrence
    shared = rows.groupby("text")["group"].nunique().pipe(lambda count: set(count.index[count > 1].str.strip()))
    movies = load_packaged("movies")
    films = [
        {film[text] for text in split.texts if text not in shared}
        for split in (movies.train, movies.evaluation["validation"])
    ]
    assert not films[0] & films[1]


def test_no_message_carries_the_labels_of_others():
    spam = load_packaged("spam")
    texts = [*spam.train.texts, *spam.evaluation["validation"].texts]
    assert not [text for text in texts if "ham\t" in text or "spam\t" in text]


def test_names_are_known_without_pandas():
    code = "import sys, ortho_lora.training.config; print('pandas' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
