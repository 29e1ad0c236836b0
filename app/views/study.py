"""What does a study show: does projection help, how much of the gap does it recover, and is that more than noise?"""

import shlex
from functools import partial
from pathlib import Path

import pandas as pd
import streamlit as st

from analysis import figures
from analysis.library.samples import is_sample
from analysis.outcomes.boards import name_of
from analysis.study import advised, cost, fairness
from analysis.study.drawing import scores_with_cost
from analysis.study.findings import Findings, find
from analysis.study.results import Results, planned_runs, read_results
from analysis.study.tables import final_metrics
from app.shared import figure, glossary, links, places, state
from app.views import study_axes, study_tables
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import default_runs_dir

LIVE_SECONDS = 5.0
"""A study is slow, and asks much: it is looked at less often than a run."""

HOW_TO_START = """
A study trains several methods with several seeds, on the same tasks and with the same budget for tuning, and says what
is more than noise. In a terminal:

- `python -m ortho_lora study quick` takes minutes on two cores;
- `python -m ortho_lora study --help` lists other presets, and takes a file of your own.

It appears here when its directory lies in the runs directory, or is the runs directory itself.
"""


def page() -> None:
    st.title("Study")
    directory = _directory()
    try:
        active = read_results(directory).active
    except OrthoLoraError as error:
        st.error(state.plain(str(error)))
        st.stop()

    @st.fragment(run_every=LIVE_SECONDS if active else None)
    def show() -> None:
        try:
            results = read_results(directory)
            if active and not results.active:
                st.rerun()  # the last look: the fragment's clock stops with it
            with st.spinner("Comparing the runs"):
                findings = _found(str(directory), results.version)
        except OrthoLoraError as error:
            st.error(state.plain(str(error)))
        else:
            _body(results, findings)

    show()


def _directory() -> Path:
    studies = places.studies()
    if not studies:
        st.info("There is no study here yet.")
        st.markdown(HOW_TO_START)
        st.stop()
    if st.session_state.get("study") not in studies:
        st.session_state.pop("study", None)
    if st.query_params.get("study") not in studies:
        st.query_params.pop("study", None)
    if len(studies) == 1:
        return next(iter(studies.values()))
    chosen = st.selectbox(
        "Study",
        list(studies),
        key="study",
        bind="query-params",
        filter_mode=None,
        format_func=lambda name: "the runs directory itself" if name == "." else name,
    )
    return studies[chosen]


@st.cache_data(show_spinner=False, max_entries=20)
def _found(directory: str, version: tuple[object, ...]) -> Findings:
    return find(Path(directory))


def _body(results: Results, findings: Findings) -> None:
    runs = places.shown(planned_runs(results))
    _sentences(results.directory, findings, runs)
    if findings.means.empty:
        st.info("No run that results are told of has finished yet.")
    else:
        study_axes.curves(findings)
        study_axes.grid(findings)
        _final(findings)
        at = _condition(results)
        _advice(findings, at)
        _gains(findings, at)
        _recovery(findings, at)
        _equal_seconds(findings, at)
        _cost(findings, at)
        _conflict(findings, at)
        _transfer(findings, at)
    _fairness(findings)
    _runs(results, runs)


def _sentences(directory: Path, findings: Findings, runs: pd.DataFrame) -> None:
    if findings.question:
        st.markdown(f"#### {state.plain(findings.question)}")
    if is_sample(directory):
        st.caption(f"The study {state.plain(directory.name)}{state.SHIPPED}.")
    done = int((runs["state"] == "finished").sum())
    if done < len(runs):
        st.progress(done / len(runs))
    st.markdown("\n".join(f"- {state.plain(sentence)}" for sentence in findings.sentences))
    for warning in findings.warnings:
        st.warning(state.plain(warning))


def _condition(results: Results) -> str:
    names = [name_of(condition) for condition in results.conditions]
    if st.session_state.get("at") not in names:
        st.session_state.pop("at", None)
    if len(names) < 2:
        return names[0]
    return st.selectbox("What follows is at", names, key="at", bind="query-params", filter_mode=None)


def _advice(findings: Findings, at: str) -> None:
    if findings.advice.empty:
        return
    st.subheader("The advice, and what came of it")
    st.caption(advised.NOTE)
    shown = findings.advice.assign(
        **{name: 1e3 * findings.advice[name] for name in ("predicted", "predicted_low", "predicted_high", "elsewhere")}
    )
    study_tables.show("study-advice", shown, at)


def _gains(findings: Findings, at: str) -> None:
    st.subheader(f"Better than {state.plain(findings.baseline)}?")
    st.caption(
        "Points above the baseline at the end, with 95% intervals over paired seeds and evaluation examples. Filled:"
        " more than noise; open: not distinguishable from it. Few seeds make wide intervals."
    )
    gains = findings.gains[(findings.gains["condition"] == at) & ~findings.gains["twin"].astype(bool)]
    figure.show(
        "study-gains",
        partial(figures.method_gains, gains, findings.methods, findings.baseline),
        gains,
        alt="Gain of each method on each task, with its interval.",
    )
    st.markdown("**In one number**")
    st.caption(
        "Delta_m: mean relative change to [`single`](learn#method), in percent. Rank: mean place among the methods; 1"
        " is the best."
    )
    study_tables.show("study-relative", findings.relative, at, low="%+.1f", high="%+.1f")


def _final(findings: Findings) -> None:
    table = final_metrics(findings)
    st.subheader("Final metrics")
    st.caption(table.note)
    figure.numbers("study-means", pd.DataFrame(table.rows, columns=list(table.columns)))


def _recovery(findings: Findings, at: str) -> None:
    st.subheader("Gap recovery", help=glossary.help("gap-recovery"))
    base = state.plain(findings.baseline)
    st.caption(f"(method − {base}) / (single − {base}): what a method wins back of what sharing one adapter costs.")
    order = ["condition", "method", "task", "in words", "recovered", "low", "high", "gap", "gain", "seeds", "twin"]
    recovery = findings.recovery[~findings.recovery["twin"].astype(bool)]
    if (recovery["condition"] == at).any():
        study_tables.show("study-recovery", recovery[order], at, low="percent", high="percent")
    else:
        st.caption(f"It takes finished runs of `single`, of {base} and of a method between them.")


def _equal_seconds(findings: Findings, at: str) -> None:
    st.subheader("At equal seconds")
    st.caption(cost.OF_EQUAL_SECONDS)
    study_tables.show("study-seconds", findings.headline(findings.equal_seconds), at)


def _cost(findings: Findings, at: str) -> None:
    st.subheader("Cost")
    st.caption(
        f"Of training steps, without evaluation. The paper reports {cost.PAPER_COST} times joint training. Runs that"
        " shared the machine slow each other down."
    )
    scores = scores_with_cost(findings)
    scores = scores[scores["condition"] == at]
    figure.show(
        "study-cost",
        partial(figures.cost_and_score, scores, findings.methods, findings.baseline),
        scores,
        alt="Metric of each method over the time of its steps.",
    )
    study_tables.show("study-costs", findings.costs, at)


def _conflict(findings: Findings, at: str) -> None:
    st.subheader("Conflict", help=glossary.help("conflict"))
    st.caption(
        "How the gradients of each pair agreed before projection, over all [blocks](learn#block), steps and seeds:"
        " mean [cosine](learn#cosine), the same [corrected for batch noise](learn#corrected-cosine) where there is"
        " signal enough, the [share below 0](learn#conflict-rate), and in how many of all cases the rule projected."
    )
    study_tables.show("study-conflicts", findings.conflicts, at)


def _transfer(findings: Findings, at: str) -> None:
    matrix = findings.transfer[findings.transfer["condition"] == at]
    if matrix.empty:
        return
    st.subheader("Transfer")
    st.caption(
        "What each task gains or loses when it is trained with one other, against alone; red is harm, bold is more than"
        " noise."
    )
    tasks = list(dict.fromkeys(matrix["task"]))
    pairs = findings.pair_conflicts[findings.pair_conflicts["condition"] == at]
    figure.show(
        "study-transfer",
        partial(figures.transfer_heatmap, matrix, tasks),
        matrix,
        alt="What each task gains or loses beside each other one.",
    )
    st.markdown("**Does measured conflict foretell measured harm?**")
    figure.show(
        "study-conflict",
        partial(figures.conflict_and_transfer, pairs),
        pairs,
        alt="Transfer of each pair over its measured cosine.",
    )
    st.caption(
        "Above: the conflict measured in a pair's own run, and what became of its tasks; bars reach to each of the two."
        " Below: the correlation, positive where more conflict goes with more harm; where it lies by chance, with the"
        " tasks exchanged at random (95% of all exchanges); and p, the share of exchanges that lie as far from 0."
    )
    study_tables.show("study-correlations", findings.correlations, at)


def _fairness(findings: Findings) -> None:
    st.subheader("Was it fair?")
    if findings.tried["chosen"].all():
        st.caption("Every method had one setting: nothing was tuned, for none of them.")
        return
    st.caption(fairness.RULE)
    study_tables.show("study-tried", findings.tried)


def _runs(results: Results, runs: pd.DataFrame) -> None:
    st.subheader("Runs")
    counts = runs["state"].value_counts()
    st.caption(", ".join(f"{count} {state.SYMBOLS.get(name, '·')} {name}" for name, count in counts.items()))
    missing = runs[runs["state"] != "finished"]
    if len(missing):
        study_tables.show("study-missing", missing)
    with st.expander("All runs", icon=":material/list:"):
        study_tables.show("study-runs", runs)
    if results.directory != default_runs_dir():
        if places.read_only():
            return
        st.markdown("To look into these runs, open the study by itself:")
        command = f"ORTHO_LORA_RUNS_DIR={shlex.quote(str(results.directory))} streamlit run app/main.py"
        st.code(command, language="sh", wrap_lines=True)
        return
    known = [name for name in runs["run"] if name in results.runs]
    chosen = st.selectbox(
        "Look into a run",
        known,
        index=None,
        key="study-run",
        placeholder="choose one of its runs",
        on_change=_look_into,
    )
    if chosen:
        with st.container(horizontal=True):
            for name, label in (("conflicts", "Conflicts"), ("metrics", "Metrics"), ("diagnosis", "Diagnosis")):
                links.link(name, label)


def _look_into() -> None:
    """Make the run that was chosen the one of all pages."""
    if chosen := st.session_state["study-run"]:
        st.session_state["run"] = chosen
