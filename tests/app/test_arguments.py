"""What train.py makes of its command line before Hydra sees it."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.small_runs import SMALL, train

from harness.app.arguments import CommandLine
from harness.app.resume import resumed
from harness.errors import UserError
from harness.files import read_sealed, write_sealed


def begun(folder, *overrides):
    """A folder with a run's record of these overrides."""
    folder.mkdir()
    write_sealed(folder / "request.json", {"scheduler": "multistep", "overrides": overrides, "config": {}})
    return folder


def resume(*arguments):
    return resumed(CommandLine.parse(arguments)).arguments


@pytest.mark.parametrize("plus", ["", "+", "++"])
@pytest.mark.parametrize("name", ["a run", 'it\'s a "q"', "a=1,b"])
def test_a_run_is_resumed_with_its_own_settings_whatever_its_folder_is_called(tmp_path, plus, name):
    folder = begun(tmp_path / name, "epochs=7", "seed=3")
    found = resume(f"{plus}resume={folder}", "epochs=9")
    assert [text for text in found if text.startswith(("epochs", "seed"))] == ["seed=3", "epochs=9"]
    assert "hydra.mode=RUN" in found


def test_another_schedule_leaves_the_settings_of_the_one_before_behind_and_the_same_one_keeps_them(tmp_path):
    folder = begun(tmp_path / "run", "scheduler=step", "scheduler.step_size=5", "epochs=7")
    assert "scheduler.step_size=5" not in resume(f"resume={folder}", "scheduler=cosine")
    assert "scheduler.step_size=5" in resume(f"resume={folder}", "scheduler=step")
    assert "scheduler.step_size=5" in resume(f"resume={folder}", "epochs=9")


@pytest.mark.parametrize("damage", ["", '{"overrides": []}', "[1, 2]"])
def test_a_damaged_record_is_named(tmp_path, damage):
    folder = begun(tmp_path / "run")
    (folder / "request.json").write_text(damage)
    with pytest.raises(UserError, match="record of its settings is damaged"):
        resume(f"resume={folder}")


@pytest.mark.parametrize(
    "override",
    [
        "++hydra.callbacks.x={_target_:os.system}", "hydra/launcher=mine", "+optimizer@hydra.callbacks=adamw",
        "--config-dir=/tmp", "~hydra.callbacks", "no override", "experiment=../../x", "experiment=/../../x",
        "+x@_global_=../../x", "experiment=[compare,../../x]", "experiment='../../x'", "experiment=${x}",
        "optimizer/groups=../x", "experiment=a/../../../x", "experiment=file:///x", "epochs=1,2",
    ],
)  # fmt: skip
def test_a_record_that_reaches_for_hydra_or_out_of_conf_is_not_followed(tmp_path, override):
    folder = begun(tmp_path / "run", override)
    with pytest.raises(UserError, match="record of its settings is damaged"):
        resume(f"resume={folder}")


def test_packages_whose_code_may_run_are_not_taken_from_a_folder(tmp_path):
    folder = begun(tmp_path / "run", "allow=[theirs]", "allow.0=theirs", "+allow.1=theirs", "epochs=7")
    assert not [text for text in resume(f"resume={folder}") if "allow" in text]
    assert "allow=[mine]" in resume(f"resume={folder}", "allow=[mine]")


def test_a_run_from_before_there_was_a_record_of_ours_goes_on_by_hydra_s_and_run_json(tmp_path):
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- epochs=7\n")
    with pytest.raises(UserError, match=r"there is no request\.json"):
        resume(f"resume={folder}")
    (folder / "run.json").write_text('{"scheduler": "step", "config": {"epochs": 8}}')
    assert "epochs=7" in resume(f"resume={folder}")
    assert train(tmp_path, f"resume={folder}").returncode == 2  # 7 is not what it was begun with


def test_what_neither_the_run_nor_the_user_said_is_refused_and_either_may_be_said(tmp_path):
    assert train(tmp_path, *SMALL, "hydra.run.dir=run").returncode == 0
    record = read_sealed(tmp_path / "run" / "request.json")
    record["config"]["scheduler"]["gamma"] = 0.2  # as if the file below conf/ had said so then
    write_sealed(tmp_path / "run" / "request.json", record)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    refused = train(tmp_path, "resume=run")
    assert refused.returncode == 2
    assert "scheduler.gamma=0.1: so say the files below conf/ now; the run was begun with 0.2" in refused.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert train(tmp_path, "resume=run", "scheduler.gamma=0.1", "epochs=5").returncode == 0


def test_a_refused_command_changes_nothing_in_the_folder_of_another_run_and_leaves_none_of_its_own(tmp_path):
    assert train(tmp_path, *SMALL, "hydra.run.dir=run").returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for typed in (["hydra.run.dir=run", "epochs=9"], ["scheduler.gamma=2"], ["data=image_folder", "data.root=none"]):
        assert train(tmp_path, *SMALL, *typed).returncode == 2
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".stages"]


def test_two_runs_that_start_in_the_same_second_have_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor() as pool:
        ended = list(pool.map(lambda seed: train(tmp_path, *SMALL, "seed=0"), range(3)))
    assert [each.returncode for each in ended] == [0, 0, 0]
    assert len(list((tmp_path / "runs").glob("*_multistep_seed0_*/summary.json"))) == 3


def test_a_job_of_an_experiment_s_sweep_is_continued_on_its_own(tmp_path):
    sweep = [*(o for o in SMALL if not o.startswith("scheduler.")), "seed=0", "scheduler=constant", "hydra.sweep.dir=s"]
    assert train(tmp_path, "experiment=compare", *sweep).returncode == 0
    (folder,) = (path.parent for path in (tmp_path / "s").glob("0_*/summary.json"))
    done = train(tmp_path, f"resume={folder}", "epochs=5")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 5
