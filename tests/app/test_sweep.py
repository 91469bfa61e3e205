import csv
import json
import logging
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from support.small_runs import SMALL, train, train_command

from harness.app.arguments import CommandLine
from harness.app.callbacks import SweepPlanner, continued, report_on_sweep
from harness.app.compose import run_name
from harness.app.job_lines import JobLines, PlannedJobs
from harness.app.sweep_folder import SWEEP, open_folder
from harness.record import Summary
from harness.views.console import ConsoleHandler

QUICK = [*(o for o in SMALL if not o.startswith("scheduler.")), "epochs=3", "hydra.sweep.dir=sweep"]


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("scheduler=constant__seed=1", "constant_seed=1"),
        (
            "scheduler.gamma=0.1__scheduler.milestones=[30,80]__scheduler=multistep__seed=0",
            "multistep_gamma=0.1_milestones=30-80_seed=0",
        ),
        ("optimizer.lr=1e-3__scheduler=step", "step_optimizer.lr=1e-3"),
        ("data.root='/a b/c'__scheduler=step", "step_data.root=-ab-c"),
    ],
)
def test_a_run_s_folder_is_named_by_what_was_swept(overrides, name):
    assert run_name(overrides) == name


def test_settings_that_all_jobs_share_stay_out_of_the_names_but_not_the_schedule():
    arguments = ["-m", "scheduler=step", "epochs=3", "seed=0,1", "hydra.sweep.dir=x"]
    excluded = "hydra.job.config.override_dirname.exclude_keys=[epochs]"
    assert CommandLine.parse(arguments).with_short_names().arguments == (arguments[0], excluded, *arguments[1:])


def test_a_sweep_with_a_failed_job_trains_the_others_and_reports_on_all(tmp_path):
    swept = ["scheduler=multistep", "scheduler.milestones=[1],[2,1],[2]", "seed=0,1"]
    done = train(tmp_path, "-m", *QUICK, *swept)
    assert done.returncode == 2
    assert "scheduler.milestones=[2, 1]: 1 comes after 2" in done.stderr
    names = [
        f"{job}_multistep_milestones={name}_seed={job % 2}"
        for job, name in enumerate(["1", "1", "2-1", "2-1", "2", "2"])
    ]
    folders = {path.name for path in (tmp_path / "sweep").iterdir() if (path / "summary.json").exists()}
    assert folders == set(names)
    with (tmp_path / "sweep" / "report" / "runs.csv").open() as file:
        statuses = [row["status"] for row in csv.DictReader(file)]
    assert sorted(statuses) == ["completed"] * 4 + ["failed"] * 2
    assert "1 comes after 2" in (tmp_path / "sweep" / "report" / "report.md").read_text()
    assert "report: sweep/report/report.md" in done.stdout


def test_a_sweep_has_a_line_for_each_job_and_every_warning_once_and_details_in_the_logs(tmp_path):
    swept = ["scheduler=multistep", "scheduler.milestones=[1],[9]", "seed=0,1"]
    # A process of its own: what a library prints when Python ends is part of it.
    done = subprocess.run(train_command("-m", *QUICK, *swept), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    lines = done.stdout.partition("\n\n")[0].splitlines()
    assert lines[:2] == [
        "stage tree: 4 runs of 12 epochs in all, 10 to train (1.20 times fewer)",
        "a line for each job; what it logs is in sweep/*/train.log",
    ]
    folders = sorted(tmp_path.glob("sweep/*_*"))
    accuracies = [json.loads((folder / "summary.json").read_text())["final_val_accuracy"] for folder in folders]
    results = [f"val {accuracy:.2%}" for accuracy in accuracies]
    job, seconds = r"multistep milestones=\[{}\] seed={}  ", r"[\d.]+ s"
    first, second = rf"3 epochs, {seconds}", rf"2 epochs \+ 1 reused, {seconds}, 1 warning"
    wanted = [
        rf"job 1 of 4 {job.format(1, 0)}{results[0]}, {first}, \d:\d\d left",
        rf"job 2 of 4 {job.format(1, 1)}{results[1]}, {first}, \d:\d\d left",
        rf"job 3 of 4 {job.format(9, 0)}warning: schedule multistep: milestone 9 never fires: .*",
        rf"job 3 of 4 {job.format(9, 0)}{results[2]}, {second}, \d:\d\d left",
        rf"job 4 of 4 {job.format(9, 1)}{results[3]}, {second}",
    ]
    for line, pattern in zip(lines[2:], wanted, strict=True):
        assert re.fullmatch(pattern, line), line
    log = (folders[3] / "train.log").read_text()
    for said in ("milestone 9 never fires", "epoch 0 reused from the stage store", "epoch 2/2  train ", "test acc"):
        assert said in log


def test_an_unforeseen_error_in_a_job_has_one_line_that_says_where_its_traceback_is(capsys):
    def run():
        try:
            raise RuntimeError("the cable is unplugged")
        except RuntimeError as error:
            record = logging.LogRecord("", logging.ERROR, "", 0, "%s", (error,), sys.exc_info())
            ConsoleHandler().emit(record)
            raise

    with pytest.raises(RuntimeError):
        JobLines(PlannedJobs(9)).show(4, "step seed=1", Path("sweep/4_step"), run)
    shown = capsys.readouterr()
    where = "(RuntimeError; traceback in sweep/4_step/train.log)"
    assert (shown.out, shown.err) == ("", f"job 5 of 9 step seed=1  error: the cable is unplugged {where}\n")


@pytest.mark.parametrize(
    ("reused", "left"),
    [
        # 0.6 s an epoch and 3 s beside: two more jobs, and 14 epochs to train.
        (0, "0:14"),
        # 6 s beside the five epochs that were trained; half of what was planned was in the store.
        (5, "0:16"),
    ],
)
def test_the_time_left_counts_epochs_to_train_and_what_a_job_takes_beside(monkeypatch, capsys, tmp_path, reused, left):
    clock = iter([100.0, 109.0])
    monkeypatch.setattr("harness.app.job_lines.time.perf_counter", lambda: next(clock))
    rest = {"epochs_trained": 10 - reused, "epochs_reused": reused, "final_val_accuracy": 0.5, "seconds": 6.0}
    done = Summary(status="completed", scheduler="step", seed=0, epochs=10, **rest)
    JobLines(PlannedJobs(3, 0, {0: 10, 1: 10, 2: 4})).show(0, "step", tmp_path, lambda: done)
    assert capsys.readouterr().out.endswith(f", 9.0 s, {left} left\n")


def test_a_setting_that_one_swept_schedule_lacks_is_refused_with_the_way_out(tmp_path):
    done = train(tmp_path, "-m", *QUICK, "scheduler=constant,multistep", "scheduler.milestones=[1],[2]")
    assert done.returncode == 2
    assert done.stderr.startswith("error: scheduler.milestones=[1],[2]: unknown setting; known in scheduler: ")
    assert done.stderr.rstrip().endswith("goes into a file for each variant, as conf/scheduler/ms_50_75.yaml")
    assert "no report" not in done.stdout + done.stderr


def test_every_run_of_a_sweep_has_the_bits_that_it_has_alone(tmp_path):
    done = train(tmp_path, "-m", *QUICK, "scheduler=constant,step", "seed=0,1")
    assert done.returncode == 0, done.stderr
    alone = train(tmp_path, *QUICK[:-1], "scheduler=step", "seed=1", "hydra.run.dir=alone")
    assert alone.returncode == 0, alone.stderr
    hashes = [
        json.loads((tmp_path / folder / "summary.json").read_text())["weights_sha256"]
        for folder in ("sweep/3_step_seed=1", "alone")
    ]
    assert hashes[0] == hashes[1]


def test_an_interrupted_sweep_stops_and_reports_on_what_there_is(tmp_path):
    long = [override for override in QUICK if not override.startswith("epochs=")]
    process = subprocess.Popen(
        train_command("-m", *long, "scheduler=constant", "epochs=3,20000,4"),  # the second outlasts any delay here
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    rows = tmp_path / "sweep" / "1_constant_epochs=20000" / "metrics.jsonl"
    while not rows.exists() or rows.stat().st_size == 0:
        assert process.poll() is None, "the sweep ended before its second run began"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130
    assert "report: sweep/report/report.md" in output
    assert not (tmp_path / "sweep" / "2_constant_epochs=4").exists()
    report = (tmp_path / "sweep" / "report" / "report.md").read_text().replace("\\", "")
    assert "1_constant_epochs=20000" in report
    assert "interrupted" in report


@pytest.mark.parametrize(("mode", "is_continued"), [([], True), (["resume=auto"], True), (["resume=never"], False)])
def test_an_unfinished_sweep_is_continued_unless_that_is_refused(monkeypatch, mode, is_continued):
    monkeypatch.setattr("harness.app.callbacks.unfinished", lambda arguments: Path("runs/begun"))
    command = ["-m", "seed=0,1", *mode]
    assert ("hydra.sweep.dir='runs/begun'" in continued(CommandLine.parse(command)).arguments) == is_continued


def test_a_sweep_killed_in_its_report_is_unfinished(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    open_folder(tmp_path, ["-m"]).release()
    monkeypatch.setattr(SweepPlanner, "folder", tmp_path)
    monkeypatch.setattr("harness.report.write.write_report", killed)
    with pytest.raises(KeyboardInterrupt):
        report_on_sweep(completed=True)
    assert json.loads((tmp_path / SWEEP).read_text())["finished"] is False


def test_jobs_that_change_to_their_own_folders_share_all_the_same(tmp_path):
    own = [o for o in QUICK if not o.startswith("hydra.sweep.dir")]
    done = train(tmp_path, "-m", *own, "scheduler=constant,step", "hydra.job.chdir=true")
    assert done.returncode == 0, done.stderr
    trained = [
        json.loads(path.read_text())["epochs_trained"] for path in tmp_path.glob("runs/*_sweep_*/*/summary.json")
    ]
    assert sorted(trained) == [0, 3]


def test_the_compare_experiment_holds_three_schedules_and_five_seeds(tmp_path):
    shown = train(tmp_path, "experiment=compare", "--cfg", "hydra", "--package", "hydra.sweeper.params")
    assert "scheduler: constant,step,multistep" in shown.stdout
    assert "seed: 0,1,2,3,4" in shown.stdout


def test_a_run_is_not_resumed_by_a_multirun(tmp_path):
    done = train(tmp_path, "-m", *QUICK, "seed=0,1", "resume=somewhere")
    assert done.returncode == 2
    assert "continues one run, not a multirun" in done.stderr


def test_the_class_by_which_hydra_itself_splits_a_sweep_into_jobs_is_where_the_planner_looks_for_it():
    """It is private, so a new Hydra may move it: then this fails, and sweep_plan.py has to find the jobs otherwise."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    parser = OverridesParser.create()
    overrides = parser.parse_overrides(["scheduler=constant,step", "+scheduler.milestones=[1],[2,3]", "seed=0"])
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    jobs = [list(job) for job in batch]
    assert len(jobs) == 4
    assert jobs[1] == ["scheduler=constant", "+scheduler.milestones=[2,3]", "seed=0"]


def test_plan_only_is_taken_with_and_without_its_plus():
    line = CommandLine.parse(["-m", "seed=0,1", "+plan_only=true"])
    assert line == CommandLine.parse(["-m", "seed=0,1", "plan_only=true"])
    assert CommandLine.parse(["++plan_only=true"]).arguments == ("++plan_only=true",)
    assert line.is_multirun
