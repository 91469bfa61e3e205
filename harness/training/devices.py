"""Which device, number format and kernels a run uses, and why."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch

from harness.config import Config
from harness.errors import UserError


@dataclass(frozen=True)
class Compute:
    """The resolved device and precision; `reason` says in words how it came to them."""

    device: torch.device
    precision: str
    reason: str

    @property
    def device_name(self) -> str:
        """The GPU's product name, or `cpu`."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def autocast(self) -> torch.autocast:
        """The context of forward passes: mixed precision for bf16 and fp16, nothing otherwise."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """The loss scaler that fp16 needs; for other precisions it passes everything through."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def synchronize(self) -> None:
        """Wait for the device, so that a clock can be read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def moment(self) -> Moment:
        """When the device is done with what it was given until now; it is not waited for."""
        return Moment(self.device)


class Moment:
    """A point in a device's work."""

    def __init__(self, device: torch.device) -> None:
        self._seconds = time.perf_counter()
        self._event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(device))

    def seconds_since(self, earlier: Moment) -> float:
        """How long the device took from an earlier point of its to this one, which is waited for."""
        if self._event is None or earlier._event is None:
            return self._seconds - earlier._seconds
        self._event.synchronize()
        return float(earlier._event.elapsed_time(self._event)) / 1e3


def set_up(config: Config) -> Compute:
    """Choose device and precision, and set torch's process-wide switches for them.

    Raises:
        UserError: for CUDA where there is none, and for a precision that the device does not have.
    """
    # cuBLAS is deterministic only with a fixed workspace. torch reads this once a process, so it is set for runs that
    # need it and for those before them that do not.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    compute = _choose(config)
    if compute.device.type == "cuda":
        torch.cuda.set_device(compute.device)  # streams and graphs are the current device's
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(config.deterministic)
    # Filling new memory would only serve programs that read it before writing.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.backends.cudnn.allow_tf32 = compute.precision == "tf32"
    torch.set_float32_matmul_precision("high" if compute.precision == "tf32" else "highest")
    return compute


def _choose(config: Config) -> Compute:
    if config.device == "cpu":
        return Compute(torch.device("cpu"), _cpu_precision(config), "device=cpu")
    missing = _why_no_cuda()
    if missing is not None:
        if config.device != "auto":
            raise UserError(f"device={config.device}: {missing}; must be auto or cpu on this machine")
        return Compute(torch.device("cpu"), _cpu_precision(config), f"device=auto: {missing}")
    device = torch.device("cuda" if config.device == "auto" else config.device)
    if device.index is not None and device.index >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise UserError(f"device={config.device}: must be auto, cpu, cuda or cuda:0 to cuda:{last} on this machine")
    device = torch.device("cuda", device.index or 0)
    precision = config.precision
    has_bf16 = torch.cuda.get_device_capability(device)[0] >= 8
    if precision == "auto":
        precision = "bf16" if has_bf16 else "fp32"
    if precision in ("bf16", "tf32") and not has_bf16:
        raise UserError(
            f"precision={precision}: {torch.cuda.get_device_name(device)} lacks it; must be auto, fp32 or fp16"
        )
    return Compute(device, precision, f"device={config.device}: {torch.cuda.get_device_name(device)} found")


def _why_no_cuda() -> str | None:
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no usable CUDA device"
    return None


def _cpu_precision(config: Config) -> str:
    if config.precision in ("tf32", "fp16"):
        raise UserError(f"precision={config.precision}: needs a CUDA device; must be auto, fp32 or bf16 on the CPU")
    return "fp32" if config.precision == "auto" else config.precision
