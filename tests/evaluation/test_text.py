"""Numbers as text for people."""

import pytest

from dpdm.evaluation.text import (
    compact,
    duration,
    epsilon_text,
    quantity,
    readable_key,
)


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (10.0, "10"),
        (9.9987, "9.999"),
        (9.9801, "9.981"),
        (1, "1"),
        (0.2, "0.2"),
        (0.012341, "0.01235"),
        (100.0, "100"),
        (float("inf"), "none"),
        (None, "none"),
    ],
)
def test_an_epsilon_is_rounded_up_never_down(epsilon, text):
    assert epsilon_text(epsilon) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.42 s"), (12.34, "12.3 s"), (245, "4 min 05 s"), (7380, "2 h 03 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_quantities_are_shown_by_the_ending_of_their_name():
    assert quantity("train_seconds", 61) == "1 min 01 s"
    assert quantity("peak_bytes", 3 * 2**20) == "3.0 MiB"
    assert quantity("image_passes", 1234567) == "1,234,567"
    assert quantity("images_per_second", 1234.56) == "1,235"
    assert quantity("device", "cpu") == "cpu"
    assert readable_key("train_seconds") == "Train"
    assert readable_key("seconds") == "Time"


def test_settings_keep_their_exact_meaning():
    assert [compact(v) for v in (True, False, None, 1e-5, [1, 2], "x")] == [
        "true",
        "false",
        "–",
        "1e-05",
        "[1, 2]",
        "x",
    ]
