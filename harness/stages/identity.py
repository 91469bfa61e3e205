"""What a run's bits follow from, besides its learning rates."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from harness.config import Config, Role
from harness.errors import UserError
from harness.files import code_digest
from harness.instantiate import resolve_class
from harness.machine import cpu_name, versions
from harness.record import flatten
from harness.training.devices import Compute

# Beginnings of environment variables by which the libraries below torch choose kernels, and so the order of sums: those
# of the CPU, which draws the initial weights of every run, of GPUs, and of what torch.compile calls.
_CPU_VARIABLES = (
    "BLIS_", "DNNL_", "KMP_DETERMINISTIC", "MKL_", "OMP_DYNAMIC", "OMP_SCHEDULE", "ONEDNN_", "OPENBLAS_",
)  # fmt: skip
_CUDA_VARIABLES = (
    "CUBLAS", "CUDA_MPS_", "CUDNN_", "NVIDIA_TF32_", "PYTORCH_TUNABLEOP_", "TORCH_ALLOW_TF32_", "TORCH_BLAS_",
    "TORCH_CUBLAS", "TORCH_CUDNN_", "TORCH_LINALG_",
)  # fmt: skip
_COMPILER_VARIABLES = ("TORCHINDUCTOR_", "TRITON_")

# The number of threads is in the identity as torch has it; the others say what is printed and where.
_OTHER_VARIABLES = ("_NUM_THREADS", "_VERBOSE", "_DIR", "_DIRECTORY")


def settings(config: Config) -> dict[str, Any]:
    """Dotted names and plain values of the settings but the schedule that decide a run's bits by themselves.

    They are known before data are read and a device is chosen, so a sweep can be planned by them.
    """
    values = config.plain(*Role)
    for name in ("augment", "label_smoothing"):
        if not values[name]:
            del values[name]  # as in runs from before there was any
    return flatten(values)


def as_asked(config: Config) -> dict[str, Any]:
    """All settings but the schedule that can change bits, as asked for, not as this machine resolves them."""
    return flatten(config.plain(Role.NO_BITS, Role.SCHEDULE))


def describe(config: Config, data: dict[str, Any], compute: Compute) -> dict[str, Any]:
    """Dotted names and plain values of everything but the schedule that can change the bits of a run.

    `data` are the data's fingerprint and normalisation.
    """
    environment: dict[str, Any] = {
        "device": compute.device_name,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "training_code": code_digest(),
        "optimizer_code": _foreign_code(config.optimizer.target),
        "variables": _kernel_variables(compute.device.type == "cuda", config.compile),
    }
    if config.augment:
        environment["augment_code"] = [_foreign_code(each.target) for each in config.augment.values()]
    if compute.device.type == "cpu":
        environment |= {"cpu": cpu_name(), "threads": torch.get_num_threads()}
        environment |= {"compiler": _compiler()} if config.compile else {}
    else:
        gpu = torch.cuda.get_device_properties(compute.device)  # of one name there are several sizes, and parts of one
        environment |= {"capability": [gpu.major, gpu.minor], "multiprocessors": gpu.multi_processor_count}
    circumstances = {"data": data, "precision": compute.precision, "environment": environment}
    return settings(config) | flatten(circumstances | {"versions": versions()})


def _kernel_variables(uses_cuda: bool, is_compiled: bool) -> dict[str, str]:
    beginnings = _CPU_VARIABLES + _CUDA_VARIABLES * uses_cuda + _COMPILER_VARIABLES * is_compiled
    chosen = (name for name in sorted(os.environ) if name.startswith(beginnings))
    return {name: os.environ[name] for name in chosen if not name.endswith(_OTHER_VARIABLES)}


def _compiler() -> str | None:
    """What the C++ compiler that torch.compile calls on the CPU says of its version; None without one."""
    try:
        asked = subprocess.run([os.environ.get("CXX", "g++"), "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return asked.stdout.partition("\n")[0]


def _foreign_code(target: str) -> str | None:
    """SHA-256 of the file that a class is from, if that is not torch, whose version says it."""
    module = resolve_class("environment", target, object).__module__
    if module.startswith("torch."):
        return None
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        raise UserError(f"_target_={target}: says that it is of {module}, which is no file; must be a class in a file")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
