"""What a run's bits follow from, besides its learning rates."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.config import Config
from harness.data import Dataset
from harness.devices import Compute

# The modules that decide what is computed; the others only read, write and show.
_TRAINING_CODE = (
    "augment", "classes", "data", "devices", "engine", "models", "optim", "run", "schedule", "seeding", "sources",
    "splits", "state",
)  # fmt: skip

# Settings that are not part of the identity: the schedule has its own keys, the others change no bits
# or are replaced by what they were resolved to.
_LEFT_OUT = ("scheduler", "epochs", "resume", "checkpoint", "device", "threads")
_LEFT_OUT_DATA = ("root", "download")


def describe(config: Config, dataset: Dataset, compute: Compute) -> dict[str, Any]:
    """Dotted names and plain values of everything but the schedule that can change the bits of a run."""
    settings = {name: value for name, value in plain(config).items() if name not in _LEFT_OUT}
    settings["data"] = {name: value for name, value in settings["data"].items() if name not in _LEFT_OUT_DATA}
    settings["data"]["fingerprint"] = dataset.fingerprint
    settings["precision"] = compute.precision
    settings["environment"] = {
        "device": compute.device_name,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "training_code": code_digest(),
    }
    settings["versions"] = versions()
    return flatten(settings)


def plain(config: Config) -> dict[str, Any]:
    """The configuration as nested plain values, under the names that the user writes."""
    return config.model_dump(by_alias=True)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def versions() -> dict[str, str | None]:
    """Versions of all that computes."""
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": importlib.metadata.version("torchvision"),
        "cuda": torch.version.cuda,
        "cudnn": None if cudnn is None else str(cudnn),
    }


def code_digest() -> str:
    """SHA-256 over the source of the modules that decide what is computed."""
    digest = hashlib.sha256()
    for name in _TRAINING_CODE:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()
