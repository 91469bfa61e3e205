"""Run a script and note when its first optimizer step was done, what it imported, and its peak memory.

    python harness/benchmarks/first_step.py NOTES.json SCRIPT ARGUMENTS...

Imports nothing that the script would not: torch's optimizers alone, which it needs in any case.
"""

from __future__ import annotations

import json
import resource
import runpy
import sys
import time
from pathlib import Path
from typing import Any

# What is heavy and not needed by every run.
WATCHED = (
    "torchvision", "sklearn", "scipy", "matplotlib", "pandas", "PIL", "tensorboard", "tensorflow", "sympy", "triton",
    "torch._dynamo", "torch._inductor", "torch.distributed", "torch.onnx", "torch.testing", "lightning",
)  # fmt: skip


def main() -> None:
    """Run the script as if it had been started itself; leave the notes as JSON when it ends."""
    notes_file, script, *arguments = sys.argv[1:]
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).resolve().parent)
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    notes: dict[str, Any] = {}

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        # A schedule's plan is made by stepping an optimizer that trains nothing.
        if not any(parameter.grad is not None for group in optimizer.param_groups for parameter in group["params"]):
            return
        handle.remove()
        if torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()
        notes.update(first_step=time.time(), imported_by_first_step=_imported())

    handle = register_optimizer_step_post_hook(note)
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        device_bytes = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
        host_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        notes.update(imported_by_the_end=_imported(), host_bytes=host_bytes, device_bytes=device_bytes)
        Path(notes_file).write_text(json.dumps(notes))


def _imported() -> list[str]:
    return [name for name in WATCHED if name in sys.modules]


if __name__ == "__main__":
    main()
