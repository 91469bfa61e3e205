"""The set-up scripts: the versions that they install, and when they install anew."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.small_runs import ROOT

SCRIPT = Path("scripts", "setup.sh")
CONSTRAINTS = Path("scripts", "constraints.txt")


def test_the_constraints_name_one_version_of_every_package_and_it_lies_in_its_range() -> None:
    lines = [line for line in (ROOT / CONSTRAINTS).read_text().splitlines() if not line.startswith("#")]
    versions = dict(line.split("==") for line in lines)
    assert len(versions) == len(lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in sum(project["optional-dependencies"].values(), project["dependencies"]):
        requirement = Requirement(line)
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, line


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the real setup.sh, whose .venv has a Python that only notes its arguments."""
    for name in ("pyproject.toml", SCRIPT, CONSTRAINTS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >>.venv/calls\n')
    python.chmod(0o755)
    return tmp_path


def installed(project: Path, extra: str, **environment: str) -> str:
    """What the script asked of pip, "" where it found everything installed."""
    calls = project / ".venv" / "calls"
    calls.write_text("")
    own = {name: value for name, value in os.environ.items() if name != "CONSTRAINTS"}
    command = ["bash", "-c", f"source {SCRIPT} '{extra}'"]
    subprocess.run(command, cwd=project, env=own | environment, check=True, capture_output=True)
    return calls.read_text()


def test_setup_installs_once_and_the_plain_project_comes_with_any_extra(project: Path) -> None:
    assert "--editable .\n" in installed(project, "")
    assert "--editable .[test]\n" in installed(project, "test")
    assert installed(project, "test") == installed(project, "") == ""


@pytest.mark.parametrize("file", ["pyproject.toml", CONSTRAINTS])
def test_setup_installs_anew_when_a_file_that_names_versions_changes(project: Path, file: Path) -> None:
    installed(project, "test")
    (project / file).write_text((project / file).read_text() + "# changed\n")
    assert f"--constraint {CONSTRAINTS} " in installed(project, "test")


def test_setup_without_constraints_is_another_installation(project: Path) -> None:
    installed(project, "test")
    assert "--constraint" not in installed(project, "test", CONSTRAINTS="")
    assert installed(project, "test", CONSTRAINTS="") == ""
    assert f"--constraint {CONSTRAINTS} " in installed(project, "test")
