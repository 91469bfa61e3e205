"""What went wrong in a run, in the words of whoever can mend it."""

from __future__ import annotations

import os

import torch

from harness.errors import UserError, in_words
from harness.machine import chain_of
from harness.runs.memory import free_bytes, largest_batch, step_bytes
from harness.runs.request import Training


def explained(error: Exception, training: Training) -> Exception:
    """A user's error in place of torch's where the user can mend it."""
    config, text = training.request.config, str(error)
    if isinstance(error, OSError):
        place = training.request.folder if error.filename is None else os.fsdecode(error.filename)
        return UserError(f"{place}: cannot be read or written: {error.strerror or error}")
    for each in chain_of(error):  # the recording of a CUDA graph that is broken off raises an error of its own
        if isinstance(each, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(each):
            reason = str(each).partition("\n")[0]
            return UserError(f"batch_size={config.batch_size}: {_memory_text(training)} ({reason})")
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return UserError(
            f"compile=true: this network cannot be compiled here, must be false ({type(error).__name__}: {error})"
        )
    if "does not have a deterministic implementation" in text:
        return UserError(f"deterministic=true: this network cannot keep it here, must be false ({error})")
    return error


def _memory_text(training: Training) -> str:
    """That a step does not fit, and which would."""
    compute, shape, model = training.compute, training.dataset.shape, training.learner.model
    size, free = training.request.config.batch_size, free_bytes(training.compute)
    fits = largest_batch(model, shape, compute.precision, free, size - 1)
    needed = step_bytes(model, shape, size, compute.precision)
    about = "" if needed is None else f", a step needs about {in_words(needed)} and {in_words(free)} are free"
    smaller = "" if fits is None else f", {fits} may fit"
    return f"out of memory on {compute.device}{about}; must be smaller{smaller}"
