"""train.py and the scripts as their users start them."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest
from support.processes import run_script
from support.small_runs import ROOT, SMALL, train, train_as_typed, train_command


def test_a_newcomer_s_command_trains_and_says_what_happened(tmp_path):
    done = train_as_typed(tmp_path, *SMALL)
    assert done.returncode == 0, done.stderr
    (folder,) = (path.parent for path in (tmp_path / "runs").glob("*/summary.json"))
    summary = json.loads((folder / "summary.json").read_text())
    assert "epoch 2: learning rate 0.003 -> 0.0003" in done.stdout
    assert f"test accuracy: {summary['test_accuracy']:.2%}" in done.stdout
    assert f"tensorboard --logdir runs/{folder.name}" in done.stdout
    assert "http://localhost:6006/?smoothing=0#scalars&_smoothingWeight=0\n" in done.stdout
    assert f"best {summary['best_val_accuracy']:.2%} in epoch {summary['best_epoch']}" in done.stdout
    assert "\x1b" not in done.stdout
    log = (folder / "train.log").read_text()
    assert "epoch 2: learning rate 0.003 -> 0.0003" in log


def test_milestones_beyond_the_run_are_warned_of_on_the_console(tmp_path):
    done = train(tmp_path, *SMALL, "scheduler.milestones=[30,80]")
    assert done.returncode == 0
    assert "milestone 30 never fires: the run's last epoch is 3 (epochs=4)" in done.stdout


@pytest.mark.parametrize(
    ("start", "override", "message"),
    [
        (train_as_typed, "foo=1", "foo=1: unknown setting; known: "),
        (train, "scheduler.milestones=[80,30]", "scheduler.milestones=[80, 30]: 30 comes after 80"),
        (train, "data=mnist", "Put the files into one of these folders"),
        (train, "resume=nowhere", "resume=nowhere: must be auto, never or the folder of a run"),
    ],
)
def test_a_mistake_is_told_without_a_traceback_and_exits_with_2(tmp_path, start, override, message):
    done = start(tmp_path, override, "hydra.run.dir=run")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not (tmp_path / "nowhere").exists()


def on_a_terminal(folder, *overrides):
    """What train.py shows there, with all that moves the cursor."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        train_command(*overrides), cwd=folder, stdout=follower, stderr=follower, stdin=follower,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
    )  # fmt: skip
    os.close(follower)
    output = b""
    try:
        while chunk := os.read(leader, 4096):
            output += chunk
    except OSError:  # Linux ends a closed terminal so
        pass
    assert process.wait() == 0
    return output.decode()


def test_on_a_terminal_a_bar_moves_and_changes_are_announced(tmp_path):
    text = on_a_terminal(tmp_path, *SMALL)
    assert "epoch 3/3" in text
    assert "img/s" in text
    assert "epoch 2: learning rate 0.003 -> 0.0003" in text


def test_on_a_terminal_a_sweep_has_a_bar_for_the_job_that_vanishes_into_its_line(tmp_path):
    text = on_a_terminal(tmp_path, "-m", *SMALL, "seed=0,1", "hydra.sweep.dir=sweep")
    assert "job 1 of 2 multistep seed=0  epoch 3/3" in text
    assert "job 2 of 2 multistep seed=1  val " in text
    assert "learning rate 0.003 -> 0.0003" not in text
    assert "epoch 3/3  train " in (tmp_path / "sweep" / "0_seed=0" / "train.log").read_text()


def preview(folder, *arguments):
    return run_script(ROOT / "scripts" / "preview.py", *arguments, folder=folder)


def test_preview_prints_the_changes_draws_them_and_writes_a_picture(tmp_path):
    shown = preview(tmp_path, "scheduler=multistep", "epochs=100")
    assert shown.returncode == 0, shown.stderr
    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in shown.stdout.splitlines() if line.startswith("│")
    ]
    assert cells == [["0", "0.003"], ["30", "0.0003"], ["80", "3e-05"]]
    assert "▄" in shown.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["lr.png"]


def test_preview_refuses_and_warns_as_training_does(tmp_path):
    assert preview(tmp_path, "scheduler.gamma=2").returncode == 2
    assert "milestone 30 never fires" in preview(tmp_path, "epochs=20").stdout


def test_a_job_of_an_interrupted_sweep_is_continued_on_its_own_though_its_folder_has_signs_in_its_name(tmp_path):
    sweep = "hydra.sweep.dir=a sweep"
    assert train(tmp_path, "-m", *SMALL, sweep, "scheduler=multistep", "seed=0,1").returncode == 0
    folder = tmp_path / "a sweep" / "1_multistep_seed=1"
    (folder / "summary.json").unlink()
    done = train(tmp_path, "resume=a sweep/1_multistep_seed=1", "epochs=5")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 5
    assert "epochs=5" in (folder / ".hydra" / "overrides.yaml").read_text()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("scheduler=multistp", "scheduler=multistp: must be one of constant, .* \\(did you mean multistep\\?\\)"),
        ("scheduler=5", "scheduler=5: must be one of constant, cosine"),
        ("+hydra/launcher=5", r"\+hydra/launcher=5: must be a name"),
        ("data=${epochs}", r"data=\$\{epochs\}: must be a name \(Error resolving interpolation"),
        ("data=null", "data=null: must be one of cifar10, "),
        ("lr=0.1", r"lr=0.1: unknown setting \(did you mean optimizer\.lr\?\)"),
        ("milestones=[3]", r"milestones=\[3\]: unknown setting \(did you mean scheduler\.milestones\?\)"),
        ("optimizer.learning_rate=1", r"optimizer.learning_rate=1: unknown setting \(did you mean lr\?\)"),
        ("seed=0,1", "seed=0,1: must be one value; several are swept with -m"),
        ("scheduler.milestones=[30,80", r"scheduler.milestones=\[30,80: cannot be read as key=value"),
        (f"hydra.run.dir={300 * 'a'}", "a{300}: cannot be written: File name too long"),
        ("epochs=abc", "epochs=abc: must be a whole number"),
    ],
)
def test_a_typo_is_answered_in_one_line_without_waiting_for_torch(tmp_path, typed, said):
    command = [sys.executable, "-X", "importtime", *train_command(typed)[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(lines) == 1
    assert re.match(f"error: {said}", lines[0]), lines[0]
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)
    assert not list(tmp_path.glob("runs/*"))
