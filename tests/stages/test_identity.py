"""What a run's bits follow from, and whether all of it is in the identity."""

import os
from types import SimpleNamespace

import pytest
import torch
from support.small_runs import SMALL

from harness.app.compose import compose_config
from harness.data.dataset import load_dataset
from harness.stages.identity import describe, settings
from harness.training.devices import Compute, set_up

H200 = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
ON_CUDA = Compute(torch.device("cuda", 0), "fp32", "")


@pytest.mark.parametrize(
    ("variable", "on_cuda", "compiled"),
    [("ONEDNN_MAX_CPU_ISA", False, False), ("MKL_CBWR", True, False), ("NVIDIA_TF32_OVERRIDE", True, False),
     ("TORCH_CUBLASLT_UNIFIED_WORKSPACE", True, False), ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", True, False),
     ("TRITON_F32_DEFAULT", True, True), ("TORCHINDUCTOR_MAX_AUTOTUNE", False, True)],
)  # fmt: skip
def test_the_identity_holds_the_variables_by_which_libraries_choose_kernels(monkeypatch, variable, on_cuda, compiled):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: H200)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    config, _ = compose_config([*SMALL, f"compile={compiled}"])
    dataset, compute = load_dataset(config.data), ON_CUDA if on_cuda else set_up(config)
    before = describe(config, dataset.facts, compute)
    monkeypatch.setenv(variable, "COMPATIBLE")
    changed = describe(config, dataset.facts, compute)
    assert {name for name in changed if changed[name] != before.get(name)} == {f"environment.variables.{variable}"}
    monkeypatch.delenv(variable)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    assert describe(config, dataset.facts, compute) == before


def test_the_identity_is_that_of_the_device_and_of_nothing_that_changes_no_bits_there(monkeypatch):
    config, _ = compose_config(SMALL)
    facts, compute = load_dataset(config.data).facts, set_up(config)
    on_cpu = describe(config, facts, compute)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: H200)
    on_cuda = describe(config, facts, ON_CUDA)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(H200, "multi_processor_count", 66)
    for variable in ("CUBLAS_WORKSPACE_CONFIG", "CUDNN_FRONTEND_X", "TRITON_X"):
        monkeypatch.setenv(variable, "mine")
    changed = describe(config, facts, compute)
    assert {name for name in changed if changed[name] != on_cpu.get(name)} == {"environment.threads"}
    changed = describe(config, facts, ON_CUDA)
    ours = ("multiprocessors", "variables.CUBLAS_WORKSPACE_CONFIG", "variables.CUDNN_FRONTEND_X")
    assert {name for name in changed if changed[name] != on_cuda.get(name)} == {f"environment.{name}" for name in ours}


def test_smoothed_labels_are_in_the_identity_and_plain_ones_leave_it_as_it_was_before_there_were_any():
    plain, none, smoothed = (
        settings(compose_config([*SMALL, *more])[0]) for more in ([], ["label_smoothing=0"], ["label_smoothing=0.1"])
    )
    assert "label_smoothing" not in plain
    assert none == plain
    assert smoothed == {**plain, "label_smoothing": 0.1}


@pytest.mark.parametrize("deterministic", ["true", "false"])
def test_the_workspace_of_cublas_is_fixed_before_the_first_run_whatever_that_asks_for(monkeypatch, deterministic):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    set_up(compose_config([*SMALL, f"deterministic={deterministic}"])[0])
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


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
