"""Which version of the training code this is."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

# The modules that decide what is computed; the others only read, write and show. A test follows the imports of `run`.
TRAINING_CODE = (
    "augment", "classes", "data", "devices", "engine", "examine", "image_files", "models", "optim", "parts", "prefetch",
    "run", "schedule", "seeding", "sources", "splits", "state", "steps",
)  # fmt: skip


@cache
def code_digest() -> str:
    """SHA-256 over the source of the modules that decide what is computed."""
    digest = hashlib.sha256()
    for name in TRAINING_CODE:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()
