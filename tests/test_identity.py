"""What a run's bits follow from, and whether all of it is in the identity."""

import ast
from pathlib import Path

import pytest
from conftest import SMALL

from harness import codebase
from harness.compose import compose_config
from harness.data import load_dataset
from harness.devices import set_up
from harness.identity import describe


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "NVIDIA_TF32_OVERRIDE"])
def test_the_identity_holds_the_variables_by_which_libraries_choose_kernels(monkeypatch, variable):
    config, _ = compose_config(SMALL)
    dataset, compute = load_dataset(config.data), set_up(config)
    before = describe(config, dataset, compute)
    monkeypatch.setenv(variable, "COMPATIBLE")
    changed = describe(config, dataset, compute)
    assert {name for name in changed if changed[name] != before.get(name)} == {f"environment.variables.{variable}"}
    monkeypatch.delenv(variable)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    assert describe(config, dataset, compute) == before


def test_the_identity_of_a_compiled_run_on_the_cpu_holds_the_compiler(monkeypatch, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho mine 1.2\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    for how, wanted in (("true", "mine 1.2"), ("false", None)):
        config, _ = compose_config([*SMALL, f"compile={how}"])
        identity = describe(config, load_dataset(config.data), set_up(config))
        assert identity.get("environment.compiler") == wanted


def test_the_identity_holds_the_code_of_an_optimizer_that_is_not_torch_s(monkeypatch, tmp_path):
    source = tmp_path / "my_optimizers.py"
    source.write_text("import torch\n\nclass Mine(torch.optim.SGD):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    config, _ = compose_config([*SMALL, "optimizer=sgd", "optimizer._target_=my_optimizers.Mine"])
    dataset, compute = load_dataset(config.data), set_up(config)
    before = describe(config, dataset, compute)
    source.write_text(source.read_text() + "# another line\n")
    assert describe(config, dataset, compute) != before


# What the training code imports that only reads, checks, writes, shows or describes.
COMPUTES_NOTHING = {
    "codebase", "config", "console", "errors", "files", "identity", "interruption", "keys", "memory", "outcome",
    "pictures", "plots", "predictions", "profiling", "results", "stages", "storage", "tensorboard", "tracking",
    "training", "tree", "walk",
}  # fmt: skip


def test_every_module_that_training_imports_is_in_the_digest_of_its_code_or_known_to_compute_nothing():
    package = Path(codebase.__file__).parent
    found, waiting = set(), ["run"]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += imports((package / module.replace(".", "/")).with_suffix(".py"))
    assert found - COMPUTES_NOTHING == set(codebase.TRAINING_CODE)
    assert found >= COMPUTES_NOTHING


def imports(path):
    """The modules of harness that a file imports anywhere, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "harness":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness."):
            yield node.module.removeprefix("harness.")
