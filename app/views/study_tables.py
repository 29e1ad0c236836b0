"""The tables of the Study page: which columns each shows, and in which form."""

from typing import Any

import pandas as pd
import streamlit as st

from app.shared import figure

_NUMBERS = {
    "mean": "%.3f", "spread": "%.3f", "gain": "%+.3f", "low": "%+.3f", "high": "%+.3f", "gap": "%+.3f",
    "delta_m": "%+.1f", "rank": "%.2f", "rank_spread": "%.2f", "seconds": "%.1f", "steps": "%.0f",
    "step_seconds": "%.3f", "total_seconds": "%.1f", "relative": "%.2f", "peak_bytes": "bytes",
    "value": "%+.2f", "cosine": "%+.2f", "corrected": "%+.2f", "conflict_rate": "percent", "projected": "percent",
    "predicted": "%+.2f", "predicted_low": "%+.2f", "predicted_high": "%+.2f", "elsewhere": "%+.2f", "loss": "%+.3f",
    "score": "%.3f", "recovered": "percent", "p": "%.2g", "chance_low": "%+.2f", "chance_high": "%+.2f",
}  # fmt: skip
_TITLES = {"delta_m": "Delta_m %", "peak_bytes": "peak memory", "step_seconds": "seconds a step"}
_TITLES |= {"chance_low": "by chance from", "chance_high": "to"}
_TITLES |= {"predicted_low": "95% from", "predicted_high": "to ", "elsewhere": "on other texts", "loss": "at the end"}
_TITLES |= {"total_seconds": "seconds in all", "relative": "over the baseline", "value": "correlation"}
_HIDDEN = {"twin", "gap_low", "gap_high", "respects", "values"}
"""Left to the files."""


def show(name: str, frame: pd.DataFrame, at: str | None = None, **formats: str) -> None:
    """A table with its files.

    Args:
        name: of the table on the page, and of its files.
        frame: the numbers.
        at: the condition that rows are shown of; None: all of them.
        formats: of columns, where they differ from what their names say.
    """
    rows = frame if at is None else frame[frame["condition"] == at]
    if rows.empty:
        st.caption("Nothing yet.")
        return
    empty = {column for column in rows if rows[column].isin([None, "", False]).all() or rows[column].isna().all()}
    hidden = _HIDDEN | empty | ({"condition"} if at is not None else set())
    config: dict[str, Any] = {
        column: st.column_config.NumberColumn(_TITLES.get(column), format=form)
        for column, form in (_NUMBERS | formats).items()
        if column in rows
    }
    figure.numbers(
        name,
        rows,
        column_order=[column for column in rows if column not in hidden],
        column_config=config,
        placeholder="–",
    )
