"""A plan spends what was asked for: no more, by any rounding, and hardly less."""

from __future__ import annotations

import pytest

from dpdm.config import load_config
from dpdm.errors import RequestError
from dpdm.privacy import epsilon
from dpdm.training.plan import make_plan


@pytest.mark.parametrize("target", [0.2, 1.0, 5.0, 10.0])
@pytest.mark.parametrize("steps", [0, 50])
@pytest.mark.parametrize("histogram_share", [0.0, 0.05])
def test_a_plan_spends_at_most_epsilon_and_nearly_all_of_it(target, steps, histogram_share):
    config = load_config(
        "digits",
        [
            f"privacy.epsilon={target}",
            f"training.steps={steps}",
            f"privacy.histogram_share={histogram_share}",
        ],
    )
    plan = make_plan(config, public_size=1437, classes=10, pixels=64)
    spent = epsilon(plan.events(), config.privacy.delta, config.privacy.accountant)
    assert 0.999 * target < spent <= target


def test_a_share_that_cannot_be_met_is_refused_in_the_words_that_were_asked_in():
    config = load_config("digits", ["privacy.epsilon=1e9"])
    with pytest.raises(RequestError, match=r"prior has 0.8 of privacy.epsilon=1e\+09: epsilon=8e"):
        make_plan(config, public_size=1437, classes=10, pixels=64)
