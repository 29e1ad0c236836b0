"""How a study is carried out: in which order, what is kept, tried again and said. No run is trained here."""

from io import StringIO

import pytest
from rich.console import Console
from studies import Scripted, record

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import Status
from ortho_lora.record.study import read_study
from ortho_lora.study.file import StudyFile
from ortho_lora.study.folder import Folder
from ortho_lora.study.plan import expected
from ortho_lora.study.progress import Progress, Shown
from ortho_lora.study.run import Order, run
from ortho_lora.study.schedule import Means

PLAIN = {"base": {"tasks": ["trec", "spam"], "steps": 10}, "methods": ["joint", "single"], "seeds": [0, 1]}
TUNED = PLAIN | {"tuning": {"candidates": [{"rank": 2}, {"rank": 4}]}}
FINE = {"validation": 0.5}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Carries a study out: study(given, script) -> endings, executor, folder."""

    monkeypatch.setattr("ortho_lora.study.schedule.LOOK_SECONDS", 0)

    def carry_out(given, script, retry_failed=False):
        folder = Folder.make(tmp_path, "mine")
        executor = Scripted(script)
        order = Order(StudyFile.model_validate(given), given, "text", ["study"])
        carry_out.lines = Console(record=True, file=StringIO(), width=500)
        endings = run(order, folder, Means(executor, 2, 1, retry_failed), Progress(carry_out.lines))
        return endings, executor, folder

    return carry_out


def test_all_runs_are_trained_and_later_kept(study):
    endings, executor, folder = study(PLAIN, lambda config, attempt: FINE)
    assert {ending.state for ending in endings.values()} == {"finished"}
    assert len(executor.started) == len(endings) == 4
    found = read_study(folder.path)
    assert (found.phase, found.methods, found.baseline, found.seeds) == ("done", ("joint", "single"), "joint", (0, 1))
    assert {use.run_id for use in found.uses} == set(executor.started)
    assert (folder.path / "study.yaml").read_text() == "text"

    more = PLAIN | {"methods": ["pcgrad", "joint", "single"], "seeds": [0, 1, 2]}
    endings, executor, _ = study(more, lambda config, attempt: FINE)
    assert len(endings) == 9
    assert len(executor.started) == 5
    assert read_study(folder.path).created == found.created


def test_candidates_are_judged_on_the_selection_split_and_the_best_is_reported(study):
    def script(config, attempt):
        better = (config.rank == 4) == (config.method == "joint")
        return {"selection": 0.6 if better else 0.5, "validation": 0.5 if better else 0.9}

    _, executor, folder = study(TUNED, script)
    found = read_study(folder.path)
    assert {choice.cell.method: choice.candidate for choice in found.choices} == {
        "joint": {"rank": 4},
        "single": {"rank": 2},
    }
    assert found.candidates == {"joint": 2, "single": 2}
    assert len(executor.started) == 4 + 2
    second = [use for use in found.uses if use.seed == 1]
    assert [(use.cell.method, use.candidate) for use in second] == [("joint", {"rank": 4}), ("single", {"rank": 2})]
    assert executor.started[-2:] == [use.run_id for use in second]


def test_a_failed_run_is_told_and_the_others_go_on(study):
    def fail_one(config, attempt):
        return (1, {"state": "failed", "message": "too hot"}) if (config.method, config.seed) == ("joint", 0) else FINE

    endings, _, folder = study(PLAIN, fail_one)
    states = [ending.state for ending in endings.values()]
    assert sorted(states) == ["failed", "finished", "finished", "finished"]
    (failed,) = (name for name, ending in endings.items() if ending.state == "failed")
    assert endings[failed].sentence == "too hot"
    assert read_study(folder.path).phase == "done"

    endings, executor, _ = study(PLAIN, lambda config, attempt: FINE)
    assert (endings[failed].state, endings[failed].sentence, executor.started) == ("failed", "too hot", [])

    endings, executor, _ = study(PLAIN, lambda config, attempt: FINE, retry_failed=True)
    assert endings[failed].state == "finished"
    assert executor.started == [failed]


def test_a_run_that_fails_before_it_begins_is_told_by_what_it_printed(study):
    endings, _, _ = study(PLAIN, lambda config, attempt: (2, "loading\nerror: there is no file\n"))
    assert {(ending.state, ending.sentence) for ending in endings.values()} == {("failed", "there is no file")}


def test_where_all_candidates_failed_the_others_are_reported(study):
    def script(config, attempt):
        return (1, "error: no") if config.method == "single" else {"selection": 0.5}

    endings, _, folder = study(TUNED, script)
    assert [choice.cell.method for choice in read_study(folder.path).choices] == ["joint"]
    assert sorted(ending.state for ending in endings.values()) == ["failed", "failed", *["finished"] * 3]


def test_a_killed_run_goes_on_and_is_given_up_after_a_while(study):
    _, executor, _ = study(PLAIN, lambda config, attempt: (-9, "") if attempt == 1 else FINE)
    assert len(executor.started) == 8
    said = study.lines.export_text()
    assert all(line in said for line in ("was killed, and goes on", "4 of 4 runs"))


def test_a_run_that_is_killed_each_time_is_left_for_the_next_command(study):
    endings, executor, folder = study(PLAIN, lambda config, attempt: (-9, "") if config.seed else FINE)
    assert sorted(ending.state for ending in endings.values()) == ["finished", "finished", "killed", "killed"]
    assert len(executor.started) == 2 + 2 * 3
    assert read_study(folder.path).phase == "reporting"
    endings, executor, _ = study(PLAIN, lambda config, attempt: FINE)
    assert len(executor.started) == 2
    assert read_study(folder.path).phase == "done"


def test_a_run_that_somebody_stopped_goes_on_with_the_next_command(study):
    endings, executor, _ = study(PLAIN, lambda config, attempt: {"state": "stopped"})
    assert {ending.state for ending in endings.values()} == {"stopped"}
    assert len(executor.started) == 4
    assert len(study(PLAIN, lambda config, attempt: FINE)[1].started) == 4


def test_nothing_is_chosen_before_all_candidates_were_tried(study):
    def stop_one(config, attempt):
        return {"state": "stopped"} if (config.method, config.rank) == ("joint", 4) else {"selection": 0.5}

    endings, executor, folder = study(TUNED, stop_one)
    assert sorted(ending.state for ending in endings.values()) == ["finished"] * 3 + ["stopped"]
    assert (read_study(folder.path).phase, read_study(folder.path).choices) == ("tuning", ())
    _, executor, folder = study(TUNED, lambda config, attempt: {"selection": 0.9})
    assert {choice.candidate["rank"] for choice in read_study(folder.path).choices} == {2, 4}
    assert len(executor.started) == 1 + 2


def test_a_run_with_other_settings_is_refused_and_nothing_trained(study, tmp_path):
    name, config = next(iter(expected(StudyFile.model_validate(PLAIN)).configs.items()))
    folder = Folder.make(tmp_path, "mine")
    record(folder.path / name, config.model_copy(update={"learning_rate": 0.1, "threads": 7}))
    with pytest.raises(OrthoLoraError, match=f"{name}: has other settings .*learning_rate: 0.1 there, the default pla"):
        study(PLAIN, lambda config, attempt: pytest.fail("trained"))


def test_threads_are_those_of_the_file_or_a_share_of_the_machine(study):
    seen = []

    def script(config, attempt):
        seen.append(config.threads)
        return FINE

    study(PLAIN, script)
    study(PLAIN | {"base": PLAIN["base"] | {"threads": 3, "rank": 2}}, script)
    assert seen == [1] * 4 + [3] * 4


def test_a_directory_that_is_no_study_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text("{}")
    with pytest.raises(OrthoLoraError, match="mine: exists, and is not a study: choose another --name"):
        Folder.make(tmp_path, "mine")


def test_one_command_at_a_time(study, tmp_path):
    lock = Folder.make(tmp_path, "mine").lock()
    with pytest.raises(OrthoLoraError, match="mine: another command carries this study out"):
        study(PLAIN, lambda config, attempt: FINE)
    lock.release()


def test_a_run_without_a_checkpoint_begins_anew_and_one_with_it_goes_on(tmp_path):
    folder = Folder.make(tmp_path, "mine")
    config = next(iter(expected(StudyFile.model_validate(PLAIN)).configs.values()))
    run_dir = folder.path / "x"
    record(run_dir, config, state="running")
    (run_dir / "checkpoint").mkdir()
    (run_dir / "checkpoint" / "state.pt").write_text("")
    assert folder.state("x") == "interrupted"
    assert folder.arguments("x") == ["resume", str(run_dir)]
    (run_dir / "checkpoint" / "state.pt").unlink()
    assert folder.arguments("x")[0] == "train"
    assert not run_dir.exists()
    assert folder.state("x") == "new"


def test_the_eta_is_measured_in_steps_of_tasks(monkeypatch):
    def status(step):
        return Status(state="running", step=step, total=10, pid=1, process_start_time=0, heartbeat=0)

    now = [0.0]
    monkeypatch.setattr("ortho_lora.study.progress.time.monotonic", lambda: now[0])
    configs = expected(StudyFile.model_validate(PLAIN)).configs  # 4 runs of 10 steps of 2 tasks
    progress = Progress(Console(quiet=True))
    progress.expect(configs)
    first, second, third, _ = configs
    progress.kept([first], [], {third: status(4)})
    assert progress.eta_seconds is None
    now[0] = 30.0
    progress.look({second: status(5)})
    assert progress.eta_seconds == pytest.approx((80 - 20 - 10 - 8) * 30 / 10)


def test_a_terminal_shows_a_bar_for_the_study_and_one_for_each_run():
    written = StringIO()
    shown = Shown(Console(file=written, force_terminal=True, width=160))
    configs = expected(StudyFile.model_validate(PLAIN)).configs
    shown.expect(configs)
    first, second, *_ = configs
    status = Status(state="running", step=5, total=10, phase="training", pid=1, process_start_time=0, heartbeat=0)
    with shown.bars:
        shown.kept([], [], {})
        shown.started(first)
        shown.look({first: status, second: None})
        shown.bars.refresh()
        assert [task.description for task in shown.bars.tasks] == ["steps x tasks", first, second]
        assert (shown.bars.tasks[0].completed, shown.bars.tasks[0].total) == (10, 80)
        shown.ended(first, "finished", "")
        shown.look({second: None})
        shown.bars.refresh()
    assert [task.description for task in shown.bars.tasks] == ["steps x tasks", second]
    assert "20/80" in written.getvalue()
    assert f"{first} finished; 1 of 4 runs" in written.getvalue()
