"""Numbers of the promise as text: bounds are rounded so that they stay true."""

import pytest

from dpdm.privacy.accounting import Event
from dpdm.promise.wording import (
    event_in_words,
    factor_at_most,
    percent_at_most,
    scientific,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "10⁻⁵"),
        (2.5e-6, "2.5 × 10⁻⁶"),
        (1.0004e-5, "1.001 × 10⁻⁵"),
        (0.0, "0"),
        (None, "none"),
    ],
)
def test_delta_is_a_power_of_ten(value, text):
    assert scientific(value) == text


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (0.2, "1.23"),
        (1.0, "2.72"),
        (10.0, "22,027"),
        (100.0, "2.7 × 10⁴³"),
        (14.0, "1.3 × 10⁶"),
        (1e4, "8.9 × 10⁴³⁴²"),
    ],
)
def test_the_factor_e_to_the_epsilon_is_rounded_up(epsilon, text):
    assert factor_at_most(epsilon) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.01, "1%"),
        (0.27181, "27.2%"),
        (0.07, "7%"),
        (0.00123456, "0.124%"),
        (1.0, "100%"),
        (0, "0%"),
    ],
)
def test_a_bound_on_a_share_is_rounded_up(share, text):
    assert percent_at_most(share) == text


def test_noise_is_rounded_down_and_a_sample_rate_up():
    said = event_in_words(Event(1.2345651, 0.0123454).to_json())
    assert "noise of 1.2345 times" in said
    assert said.endswith("rate 0.012346")
