import csv
import json
import logging
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support.processes import run_script
from support.run_folders import write_run
from support.small_runs import ROOT, SMALL, train, train_command

from harness.app import sweep_plan
from harness.app.arguments import CommandLine, quoted
from harness.app.callbacks import SweepPlanner, continued, report_on_sweep
from harness.app.compose import run_name
from harness.app.job_lines import JobLines, PlannedJobs
from harness.app.sweep_folder import SWEEP, TREE, new_folder, open_folder
from harness.errors import UserError
from harness.files import read_sealed, write_sealed
from harness.record import Summary
from harness.views.console import ConsoleHandler, DatedFormatter, say

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


def test_no_sign_that_steers_a_terminal_is_printed_or_logged(capsys):
    record = logging.LogRecord("", logging.WARNING, "", 0, "class \x1b[2Jcat\x9b\u202e\ud800", (), None)
    ConsoleHandler().emit(record)
    say("\x1b]0;title\x07")
    logged = DatedFormatter("%(message)s").format(record)
    steering = {"\x1b", "\x07", "\x9b", "\u202e", "\ud800"}
    assert not steering & set(logged + capsys.readouterr().out)
    assert logged.startswith("class \N{REPLACEMENT CHARACTER}[2Jcat")


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


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no ink")])
def test_a_sweep_that_ended_in_its_report_is_unfinished_and_says_so(tmp_path, monkeypatch, error, caplog):
    def ends(*_, **__):
        raise error

    open_folder(tmp_path, ["-m"]).release()
    write_run(tmp_path / "0")
    monkeypatch.setattr(SweepPlanner, "folder", tmp_path)
    monkeypatch.setattr("harness.report.write.write_report", ends)
    with pytest.raises(type(error)):
        report_on_sweep(completed=True)
    assert json.loads((tmp_path / SWEEP).read_text())["finished"] is False
    if isinstance(error, Exception):
        report_on_sweep(completed=False)  # how the sweep itself ended is on its way up already
        assert "no report: no ink" in caplog.text


@pytest.mark.parametrize("jobs", [0, 1, 2])
def test_a_sweep_is_finished_when_each_job_left_a_completed_run(tmp_path, monkeypatch, jobs):
    open_folder(tmp_path, ["-m"]).release()
    write_run(tmp_path / "0")
    monkeypatch.setattr(SweepPlanner, "folder", tmp_path)
    monkeypatch.setattr(SweepPlanner, "jobs", jobs)
    monkeypatch.setattr("harness.report.plots.PICTURES", {})
    ending = nullcontext() if jobs < 2 else pytest.raises(UserError, match="of 2 jobs only 1 left a completed run")
    with ending:
        report_on_sweep(completed=True)
    assert read_sealed(tmp_path / SWEEP)["finished"] == (jobs < 2)
    assert (tmp_path / "report" / "report.md").exists()


def test_a_job_that_cannot_be_planned_takes_nothing_from_the_others(tmp_path):
    done = train(tmp_path, "-m", *QUICK, "scheduler=cosine", "scheduler.T_max=0,4,5")
    assert done.returncode != 0
    assert "stage tree: 2 runs of 6 epochs in all, 5 to train" in done.stdout
    assert "job 1 of 3 cosine T_max=0  error: " in done.stderr
    summaries = [json.loads(path.read_text()) for path in sorted((tmp_path / "sweep").glob("*/summary.json"))]
    assert [summary["status"] for summary in summaries] == ["failed", "completed", "completed"]
    assert summaries[2]["epochs_reused"] == 1
    assert read_sealed(tmp_path / "sweep" / SWEEP)["finished"] is False
    assert "report: sweep/report/report.md" in done.stdout


def test_a_sweep_that_cannot_be_planned_at_all_goes_on_and_says_so_once(monkeypatch, caplog):
    def moved(*_):
        raise ImportError("no BasicSweeper")

    monkeypatch.setattr(sweep_plan, "_overrides_by_job", moved)
    config = OmegaConf.create({"hydra": {"sweeper": {"_target_": "x.BasicSweeper"}}})
    plan = sweep_plan._plan(config, ["-m"])
    assert (plan.jobs, plan.shown(shares=False)) == ([], PlannedJobs())
    (message,) = caplog.messages
    assert message.endswith("(ImportError: no BasicSweeper)")


def test_an_error_nobody_foresaw_in_the_callback_ends_the_program(monkeypatch, capsys):
    def unforeseen(*_):
        raise RuntimeError("what is this")

    monkeypatch.setattr(sweep_plan, "begin", unforeseen)
    with pytest.raises(SystemExit) as ended:
        SweepPlanner().on_multirun_start(OmegaConf.create())
    assert ended.value.code == 1
    assert "RuntimeError: what is this" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["seed=0,1", "batch_size=-1"], "batch_size=-1: "),
        (["seed=0,1", "hydra.sweep.subdir=one"], "hydra.sweep.subdir=one: is the folder of jobs 1 and 2; must be"),
    ],
)
def test_a_sweep_that_is_refused_as_a_whole_leaves_no_folder(tmp_path, wrong, said):
    done = train(tmp_path, "-m", *(o for o in QUICK if not o.startswith("batch_size")), *wrong)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {said}")
    assert list(tmp_path.iterdir()) == []


@given(st.text("\\'\"a, =[$", min_size=1))
def test_a_folder_s_name_comes_through_hydra_s_grammar_as_it_is(name):
    assert OverridesParser.create().parse_override(f"x={quoted(name)}").value() == name


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_sweep_that_ends_before_its_first_job_leaves_no_folder(tmp_path, monkeypatch, is_begun):
    open_folder(tmp_path / "sweep", ["-m"]).release()
    if is_begun:
        (tmp_path / "sweep" / "0_constant").mkdir()
    monkeypatch.setattr(SweepPlanner, "folder", tmp_path / "sweep")
    report_on_sweep(completed=False)
    assert (tmp_path / "sweep" / SWEEP).exists() == is_begun == (tmp_path / "sweep").exists()


def test_an_unfinished_sweep_goes_on_in_its_folder_also_when_the_command_names_it(tmp_path):
    own = [o for o in QUICK if not o.startswith("hydra.sweep.dir")]
    command = ["-m", *own, "scheduler=step", "scheduler.step_size=-1,2"]
    first = train(tmp_path, *command)
    assert first.returncode != 0
    (sweep,) = (tmp_path / "runs").glob("*_sweep")
    for again in ([], [f"hydra.sweep.dir=runs/{sweep.name}"]):
        done = train(tmp_path, *command, *again)
        assert "was already completed" in done.stdout
    assert [path.name for path in (tmp_path / "runs").glob("*_sweep*")] == [sweep.name]


def test_two_sweeps_of_one_second_have_two_folders(tmp_path):
    wanted = tmp_path / "runs" / "2026-01-01_00-00-00_sweep"
    assert [new_folder(wanted).name for _ in range(3)] == [wanted.name, f"{wanted.name}_2", f"{wanted.name}_3"]


@pytest.mark.parametrize("damage", [b"", b"[", b"[]", b"5", b'{"arguments": 5}', "flip"])
@pytest.mark.parametrize("witness", [True, False])
def test_a_damaged_record_of_a_sweep_is_neither_believed_nor_in_the_way(tmp_path, damage, witness):
    command = ["-m", "seed=0,1"]
    open_folder(tmp_path, command).release()
    write_run(tmp_path / "0_constant")
    if witness:
        write_sealed(tmp_path / TREE, {"arguments": command, "runs": []})
    record = tmp_path / SWEEP
    record.write_bytes(record.read_bytes().replace(b"0,1", b"0,2") if damage == "flip" else damage)
    if witness:
        with pytest.raises(UserError, match="holds the sweep of another command"):
            open_folder(tmp_path, ["-m", "seed=0,2"])
    open_folder(tmp_path, command).release()
    assert read_sealed(record)["arguments"] == command


# A launcher as Ray's: a job is composed where the user stands, and runs in another folder, which is then deleted.
_LAUNCHERS = """
import os
import tempfile

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from omegaconf import open_dict


class Elsewhere(BasicLauncher):
    def launch(self, job_overrides, initial_job_idx):
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return [self.job(number, overrides) for number, overrides in enumerate(job_overrides, initial_job_idx)]

    def job(self, number, overrides):
        config, here = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides)), os.getcwd()
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                return run_job(self.task_function, config, "hydra.sweep.dir", "hydra.sweep.subdir", self.hydra_context)
            finally:
                os.chdir(here)


class Nowhere(Elsewhere):
    def job(self, number, overrides):
        done = JobReturn()
        done.status = JobStatus.COMPLETED
        return done


for launcher in (Elsewhere, Nowhere):
    target = {"_target_": f"hydra_plugins.launchers.{launcher.__name__}"}
    ConfigStore.instance().store(group="hydra/launcher", name=launcher.__name__.lower(), node=target)
"""


def train_with_launchers(folder, *overrides):
    """train.py in `folder/here`, beside which the launchers lie as an installed plugin would."""
    plugins = folder / "start" / "hydra_plugins"
    plugins.mkdir(parents=True)
    (plugins / "launchers.py").write_text(_LAUNCHERS)
    start = folder / "start" / "train.py"
    start.write_text(f"import runpy\n\nrunpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n")
    (here := folder / "here").mkdir()
    return run_script(start, *overrides, folder=here)


def test_jobs_that_run_in_other_folders_find_the_images_and_leave_all_where_the_user_stood(tmp_path):
    from PIL import Image

    for place in ("train/a", "train/b", "test/a", "test/b"):
        (folder := tmp_path / "made" / "images" / place).mkdir(parents=True)
        for number in range(6):
            Image.new("L", (8, 8), 10 * number + (folder.name == "b")).save(folder / f"{number}.png")
    own = [o for o in QUICK if not o.startswith(("data", "hydra"))]
    images = ["data=image_folder", "data.root=../made/images", "data.image_size=8", "data.channels=1"]
    done = train_with_launchers(tmp_path, "-m", *own, *images, "scheduler=constant,step", "hydra/launcher=elsewhere")
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "here" / "runs").glob("*_sweep")
    trained = [json.loads(path.read_text())["epochs_trained"] for path in sorted(sweep.glob("*/summary.json"))]
    assert trained == [3, 0]
    assert f"report: runs/{sweep.name}/report/report.md" in done.stdout
    assert read_sealed(sweep / SWEEP)["finished"] is True


def test_a_sweep_whose_jobs_leave_nothing_is_not_finished(tmp_path):
    done = train_with_launchers(tmp_path, "-m", *QUICK, "seed=0,1", "hydra/launcher=nowhere")
    assert done.returncode == 2
    sweep = tmp_path / "here" / "sweep"
    assert (
        f"error: hydra.sweep.dir={sweep}: all jobs have ended, but of 2 jobs only 0 left a completed run" in done.stderr
    )
    assert read_sealed(sweep / SWEEP)["finished"] is False


def test_jobs_that_change_to_their_own_folders_share_all_the_same(tmp_path):
    own = [o for o in QUICK if not o.startswith("hydra.sweep.dir")]
    done = train(tmp_path, "-m", *own, "scheduler=constant,step", "hydra.job.chdir=true")
    assert done.returncode == 0, done.stderr
    trained = [json.loads(path.read_text())["epochs_trained"] for path in tmp_path.glob("runs/*_sweep*/*/summary.json")]
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


def test_the_folder_of_a_refused_job_is_free_for_a_run(tmp_path):
    wrong = ["hydra.sweep.dir=s", "optimizer.lr=0.1,-1"]
    assert train(tmp_path, "-m", *SMALL, *wrong).returncode == 2
    (refused,) = (path.parent for path in (tmp_path / "s").glob("1_*/summary.json"))
    assert json.loads((refused / "summary.json").read_text())["status"] == "failed"
    done = train(tmp_path, *SMALL, f"hydra.run.dir='{refused}'")
    assert done.returncode == 0, done.stderr


COUNTING = f"""
import gc, runpy, sys, weakref
import torch
from harness.runs import run

gc.disable()
networks = []

class Counted(run.Learner):
    def __init__(self, config, *arguments):
        print("networks of earlier jobs:", sum(network() is not None for network in networks), file=sys.stderr)
        super().__init__(config, *arguments)
        self.fails = config.seed == 0
        networks.append(weakref.ref(self.model))

    def epoch(self, *arguments):
        if self.fails:
            raise torch.OutOfMemoryError("no room")
        return super().epoch(*arguments)

run.Learner = Counted
sys.argv[0] = {str(ROOT / "train.py")!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_job_begins_without_the_networks_of_those_before_it_one_that_had_no_room_included(tmp_path):
    (tmp_path / "counting.py").write_text(COUNTING)
    done = run_script(tmp_path / "counting.py", "-m", *SMALL, "seed=0,1,2", folder=tmp_path)
    counted = [line for line in done.stderr.splitlines() if line.startswith("networks of earlier jobs")]
    assert counted == 3 * ["networks of earlier jobs: 0"], done.stderr
    assert "out of memory on cpu" in done.stderr
