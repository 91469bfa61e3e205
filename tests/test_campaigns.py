"""The first few cases of each campaign; `python -m tests.campaigns NAME` tries all of them."""

import pytest

from tests.campaigns.campaign import NAMES, find, run


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cases_of_a_campaign_survive(name):
    few = find(name).few
    *_, outcome = run(name, range(few))
    assert outcome.failures == {}, "\n".join(outcome.failures.values())
    assert outcome.tried == few
