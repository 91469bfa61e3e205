"""All randomness of a run as a pure function of (seed, purpose, epoch): nothing random is carried over."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, purpose: str, epoch: int = 0) -> int:
    """A 63-bit seed from the run's seed, a purpose and an epoch, by SHA-256."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """A CPU generator for one purpose in one epoch; CPU and CUDA runs thus draw the same batches."""
    return torch.Generator().manual_seed(derive(seed, purpose, epoch))


def seed_global(seed: int, purpose: str, epoch: int = 0) -> None:
    """Seed torch's global generators, which dropout and initial weights draw from."""
    torch.manual_seed(derive(seed, purpose, epoch))
