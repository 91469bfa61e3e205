"""The first cases of each campaign; whole ones are run by `python -m tests.campaigns NAME`."""

import os
from collections import deque

import pytest
from campaigns.campaign import NAMES, find, run


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cases_survive(name):
    if name == "disk" and os.geteuid() != 0:
        pytest.skip("mounts a disk of its own")
    (outcome,) = deque(run(name, range(few := find(name).few)), maxlen=1)
    assert not outcome.failures, "\n".join(outcome.failures.values())
    assert outcome.tried == few
