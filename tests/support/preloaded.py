"""What a run imports early or late, and what a sweep's report draws with: loaded once, before processes are forked."""

import atexit
import gc
import os

import torch

import harness.app.main
import harness.report.write
import harness.runs.run
import harness.views.curves
import harness.views.mistakes  # noqa: F401

# The first optimizer of a process imports half of torch once more.
torch.optim.SGD([torch.zeros(1)])
# No collection in a forked process has to walk over all this, which would also copy it; nor is it taken apart at the
# end, when some of it would complain.
gc.freeze()
atexit.register(os._exit, 0)
