"""What train.py makes of its command line before Hydra sees it."""

import json

import pytest
from support.small_runs import SMALL, train

from harness.app.arguments import CommandLine
from harness.errors import UserError


def begun(folder, *overrides):
    """A folder with Hydra's record of these overrides."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
    return folder


def resumed(*arguments):
    return CommandLine.parse(arguments).resumed().arguments


@pytest.mark.parametrize("plus", ["", "+", "++"])
@pytest.mark.parametrize("name", ["a run", 'it\'s a "q"', "a=1,b"])
def test_a_run_is_resumed_with_its_own_settings_whatever_its_folder_is_called(tmp_path, plus, name):
    folder = begun(tmp_path / name, "epochs=7", "seed=3")
    found = resumed(f"{plus}resume={folder}", "epochs=9")
    assert [text for text in found if text.startswith(("epochs", "seed"))] == ["seed=3", "epochs=9"]
    assert "hydra.mode=RUN" in found


def test_another_schedule_leaves_the_settings_of_the_one_before_behind_and_the_same_one_keeps_them(tmp_path):
    folder = begun(tmp_path / "run", "scheduler=step", "scheduler.step_size=5", "epochs=7")
    assert "scheduler.step_size=5" not in resumed(f"resume={folder}", "scheduler=cosine")
    assert "scheduler.step_size=5" in resumed(f"resume={folder}", "scheduler=step")
    assert "scheduler.step_size=5" in resumed(f"resume={folder}", "epochs=9")


@pytest.mark.parametrize("damage", ["- : {", "{a: 1}", "[1, 2]"])
def test_a_damaged_record_is_named(tmp_path, damage):
    folder = begun(tmp_path / "run")
    (folder / ".hydra" / "overrides.yaml").write_text(damage)
    with pytest.raises(UserError, match=r"overrides\.yaml is damaged"):
        resumed(f"resume={folder}")


def test_a_job_of_an_experiment_s_sweep_is_continued_on_its_own(tmp_path):
    sweep = [*(o for o in SMALL if not o.startswith("scheduler.")), "seed=0", "scheduler=constant", "hydra.sweep.dir=s"]
    assert train(tmp_path, "experiment=compare", *sweep).returncode == 0
    (folder,) = (path.parent for path in (tmp_path / "s").glob("0_*/summary.json"))
    done = train(tmp_path, f"resume={folder}", "epochs=5")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 5
