import csv
import json
import signal
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from support.small_runs import SMALL, train, train_command

from harness.app.arguments import CommandLine
from harness.app.callbacks import SweepPlanner, continued, report_on_sweep
from harness.app.compose import run_name
from harness.app.sweep_folder import SWEEP, open_folder

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


def test_a_sweep_says_nothing_on_standard_error(tmp_path):
    # A process of its own: what a library prints when Python ends is part of it.
    command = train_command("-m", *QUICK, "scheduler=constant,step")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""


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
        train_command("-m", *long, "epochs=40", "scheduler=constant", "seed=0,1,2"),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    while not (tmp_path / "sweep" / "1_constant_seed=1" / "metrics.jsonl").exists():
        assert process.stdout.readline(), "the sweep ended before its second run began"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130
    assert "report: sweep/report/report.md" in output
    assert not (tmp_path / "sweep" / "2_constant_seed=2").exists()
    report = (tmp_path / "sweep" / "report" / "report.md").read_text().replace("\\", "")
    assert "1_constant_seed=1" in report
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
    trained = [json.loads(path.read_text())["epochs_trained"] for path in tmp_path.glob("runs/*_sweep/*/summary.json")]
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
    assert line.is_multirun
