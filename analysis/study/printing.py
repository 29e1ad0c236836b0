"""A study as text: for a terminal, and as Markdown. Names come from files of others: they are never read as markup."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Shown
from rich.text import Text

from analysis.study.findings import Findings
from analysis.study.tables import Table, tables
from ortho_lora.errors import plain

_LEFT = {"condition", "method", "task", "beside", "settings", "what of it"}
_LEFT |= {"run", "tasks", "message", "conflict", "harm", "pair"}
_MARKED = str.maketrans({letter: f"\\{letter}" for letter in r"\`*_[]<>|#"})


def print_study(console: Console, findings: Findings) -> None:
    """The sentences first, then every table that has rows."""
    console.print(Text(plain(f"{findings.name}: {findings.question or 'what the study shows'}"), "bold"))
    for sentence in (*findings.sentences, *findings.warnings):
        console.print(Text(plain(f"- {sentence}")))
    for table in tables(findings):
        shown = Shown(box=SIMPLE_HEAD, title=Text(plain(table.title), "bold"), title_justify="left")
        for column in table.columns:
            shown.add_column(Text(plain(column)), justify="left" if column in _LEFT else "right", overflow="fold")
        for row in table.rows:
            shown.add_row(*(Text(plain(cell)) for cell in row))
        console.print(shown)
        if table.note:
            console.print(Text(plain(f"{table.note}\n"), "dim"))


def markdown(findings: Findings) -> str:
    """The same as Markdown, with headings of the third level."""
    said = [f"- {_escaped(sentence)}" for sentence in (*findings.sentences, *findings.warnings)]
    return "\n\n".join(["\n".join(said), *map(_section, tables(findings))]) + "\n"


def _section(table: Table) -> str:
    lines = [table.columns, tuple(":--" if column in _LEFT else "--:" for column in table.columns), *table.rows]
    rows = [f"| {' | '.join(line if place == 1 else tuple(map(_escaped, line)))} |" for place, line in enumerate(lines)]
    return "\n\n".join(part for part in (f"### {_escaped(table.title)}", table.note, "\n".join(rows)) if part)


def _escaped(text: str) -> str:
    return plain(text).translate(_MARKED).replace("\n", " ")
