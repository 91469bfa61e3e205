"""What a run's bits follow from, and whether all of it is in the identity."""

import pytest
from support.small_runs import SMALL

from harness.app.compose import compose_config
from harness.data.dataset import load_dataset
from harness.stages.identity import describe
from harness.training.devices import set_up


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "NVIDIA_TF32_OVERRIDE"])
def test_the_identity_holds_the_variables_by_which_libraries_choose_kernels(monkeypatch, variable):
    config, _ = compose_config(SMALL)
    dataset, compute = load_dataset(config.data), set_up(config)
    before = describe(config, dataset.facts, compute)
    monkeypatch.setenv(variable, "COMPATIBLE")
    changed = describe(config, dataset.facts, compute)
    assert {name for name in changed if changed[name] != before.get(name)} == {f"environment.variables.{variable}"}
    monkeypatch.delenv(variable)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    assert describe(config, dataset.facts, compute) == before


def test_the_identity_of_a_compiled_run_on_the_cpu_holds_the_compiler(monkeypatch, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho mine 1.2\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    for how, wanted in (("true", "mine 1.2"), ("false", None)):
        config, _ = compose_config([*SMALL, f"compile={how}"])
        identity = describe(config, load_dataset(config.data).facts, set_up(config))
        assert identity.get("environment.compiler") == wanted


def test_the_identity_holds_the_code_of_an_optimizer_that_is_not_torch_s(monkeypatch, tmp_path):
    source = tmp_path / "my_optimizers.py"
    source.write_text("import torch\n\nclass Mine(torch.optim.SGD):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = ("optimizer=sgd", "optimizer._target_=my_optimizers.Mine", "allow=[my_optimizers]")
    config, _ = compose_config([*SMALL, *own])
    dataset, compute = load_dataset(config.data), set_up(config)
    before = describe(config, dataset.facts, compute)
    source.write_text(source.read_text() + "# another line\n")
    assert describe(config, dataset.facts, compute) != before
