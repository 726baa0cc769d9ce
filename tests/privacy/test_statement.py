"""The statement: computed from what ran, legible, and without anything private in it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import norm

from dpdm.privacy.accounting import epsilon, gaussian, poisson_sampled_gaussian
from dpdm.privacy.noise import SeededNoise, SystemNoise
from dpdm.privacy.statement import (
    attack_bounds,
    build_statement,
    first_line,
    render_markdown,
    render_text,
)

COUNTS = ("class counts", gaussian(20), 1)
STEPS = ("DP-SGD step", poisson_sampled_gaussian(0.05, 1.5), 200)
KEYS_OF_THE_INTERFACE = {
    "private",
    "epsilon",
    "delta",
    "unit",
    "adjacency",
    "accountant",
    "mechanisms",
    "noise_source",
    "covered",
    "not_covered",
}


def statement(events=(COUNTS, STEPS), **changes):
    values = {
        "delta": 1e-5,
        "accountant": "pld",
        "unit": "image",
        "noise_source": SystemNoise.description,
        "enabled": True,
        "seeded": False,
        "planned_epsilon": 10.0,
        "image_shape": (28, 28, 1),
        "classes": 10,
        "public_size": 60123,
        "public_size_declared": True,
    }
    return build_statement(events, **(values | changes))


PRIVATE = statement()
SEEDED = statement(seeded=True, noise_source=SeededNoise.description)
DISABLED = statement(events=[], enabled=False, noise_source="none")
UNBOUNDED = statement(delta=1e-17)
NOTHING_RAN = statement(events=[])
ALL = [PRIVATE, SEEDED, DISABLED, UNBOUNDED, NOTHING_RAN]
every = pytest.mark.parametrize(
    "stated", ALL, ids=["private", "seeded", "disabled", "unbounded", "nothing ran"]
)


@every
def test_it_has_the_interfaces_keys_and_is_plain_json(stated):
    assert set(stated) >= KEYS_OF_THE_INTERFACE
    assert json.loads(json.dumps(stated, allow_nan=False)) == stated


def test_epsilon_is_that_of_the_mechanisms_that_ran_and_not_the_planned_one():
    spent = epsilon([COUNTS[1:], STEPS[1:]], 1e-5)
    assert PRIVATE["private"] is True
    assert PRIVATE["epsilon"] == spent < PRIVATE["planned_epsilon"]
    assert PRIVATE["epsilon_by_accountant"]["rdp"] > spent
    assert statement(accountant="rdp")["epsilon"] == PRIVATE["epsilon_by_accountant"]["rdp"]


def test_every_mechanism_is_listed_with_event_and_count():
    assert PRIVATE["mechanisms"] == [
        {"name": "class counts", "event": COUNTS[1].to_json(), "count": 1},
        {"name": "DP-SGD step", "event": STEPS[1].to_json(), "count": 200},
    ]


def test_the_first_line_is_the_promise():
    line = render_markdown(PRIVATE).splitlines()[0]
    assert line == first_line(PRIVATE) == render_text(PRIVATE).splitlines()[0]
    assert line.startswith("This release is differentially private: epsilon = ")
    assert "delta = 1e-05 for every image" in line


def test_the_printed_epsilon_is_never_below_the_spent_one():
    for noise in np.linspace(0.7, 30, 40):
        stated = statement(events=[("sum", gaussian(float(noise)), 1)])
        printed = float(first_line(stated).split("epsilon = ")[1].split()[0])
        assert stated["epsilon"] <= printed <= stated["epsilon"] * 1.001


@pytest.mark.parametrize(
    ("stated", "why"),
    [(SEEDED, "chosen seed"), (DISABLED, "switched off"), (UNBOUNDED, "no finite epsilon")],
)
@pytest.mark.parametrize("render", [render_markdown, render_text])
def test_without_a_promise_the_first_line_says_not_private_and_why(stated, why, render):
    assert stated["private"] is False
    first = render(stated).splitlines()[0]
    assert first.startswith("NOT PRIVATE: ")
    assert why in first


@pytest.mark.parametrize("stated", [SEEDED, DISABLED, UNBOUNDED])
def test_without_a_promise_nothing_is_covered(stated):
    assert stated["covered"] == []
    assert stated["attack_bounds"] is None
    assert "differentially private" not in render_markdown(stated)
    assert "What is covered" not in render_markdown(stated)


def test_without_clipping_and_noise_there_is_no_epsilon():
    assert DISABLED["epsilon"] is None
    assert UNBOUNDED["epsilon"] is None


def test_with_a_chosen_seed_epsilon_is_what_secret_noise_would_have_spent():
    assert SEEDED["epsilon"] == PRIVATE["epsilon"]
    assert "would have spent" in render_markdown(SEEDED)


def test_nothing_is_spent_where_nothing_ran():
    assert NOTHING_RAN["private"] is True
    assert NOTHING_RAN["epsilon"] == 0
    assert "No mechanism ran" in render_markdown(NOTHING_RAN)


def test_the_text_for_a_privacy_officer_answers_the_questions():
    text = render_markdown(PRIVATE)
    for part in (
        "What is promised",
        "Unit: what is protected is each single image",
        "add or remove one unit",
        "several images is protected less",
        "| class counts | Gaussian noise of 20 times the sensitivity, on all units | 1 |",
        "on a Poisson sample with rate 0.05 | 200 |",
        "os.urandom",
        "What is treated as public",
        "What is covered",
        "What is not covered",
        "checkpoints",
        "Limits and assumptions",
        "floating-point",
        "What epsilon means",
        "| 0.1% |",
        "| 1.0% |",
        "| 10.0% |",
    ):
        assert part in text


def test_the_text_names_another_unit_where_one_is_protected():
    text = render_markdown(statement(unit="person"))
    assert "for every person in the data" in text
    assert "several images" not in text


def test_a_declared_size_is_a_public_fact():
    (fact,) = [line for line in PRIVATE["treated_as_public"] if "60123" in line]
    assert fact.startswith("The declared number of units")


def test_an_undeclared_size_is_said_to_be_treated_as_public():
    stated = statement(public_size_declared=False)
    (fact,) = [line for line in stated["treated_as_public"] if "60123" in line]
    assert fact.startswith("The exact size of the data set")
    assert "none was declared" in fact
    assert fact in render_markdown(stated)


def test_image_size_and_classes_are_public_facts():
    facts = " ".join(PRIVATE["treated_as_public"])
    assert "28 x 28 pixels, 1 channel." in facts
    assert "number of classes, 10" in facts
    assert "no classes" in " ".join(statement(classes=0)["treated_as_public"])


def test_a_terminal_is_told_when_less_was_spent_than_planned():
    assert "Planned was epsilon 10; less was spent." in render_text(PRIVATE)
    planned = statement(planned_epsilon=PRIVATE["epsilon"])
    assert "less was spent" not in render_text(planned)


def test_the_texts_are_made_from_the_json_alone():
    for stated in ALL:
        loaded = json.loads(json.dumps(stated))
        assert render_markdown(loaded) == render_markdown(stated)
        assert render_text(loaded) == render_text(stated)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0, 30.0])
def test_no_attack_on_a_gaussian_beats_the_stated_bounds(sigma):
    # The best attack on one Gaussian mechanism is a threshold: its power is known exactly.
    stated = statement(events=[("sum", gaussian(sigma), 1)])["attack_bounds"]
    for row in stated["true_positive_rate_at_most"]:
        rate = row["false_positive_rate"]
        assert norm.sf(norm.isf(rate) - 1 / sigma) <= row["true_positive_rate"] <= 1
    assert 2 * norm.cdf(1 / (2 * sigma)) - 1 <= stated["advantage_at_most"] <= 1


@pytest.mark.parametrize(("eps", "delta"), [(0.0, 1e-5), (0.5, 1e-5), (3.0, 1e-3), (20.0, 1e-6)])
def test_the_bounds_are_those_of_the_worst_mechanism_with_this_epsilon_and_delta(eps, delta):
    # Its four outcomes: given away (delta), more likely with, more likely without, given away.
    likely = (1 - delta) * math.exp(eps) / (1 + math.exp(eps))
    with_unit = [delta, likely, 1 - delta - likely, 0.0]
    without = [0.0, 1 - delta - likely, likely, delta]

    def power(false_positives: float) -> float:
        """Neyman and Pearson: reject in order of likelihood, the last outcome in part."""
        found = 0.0
        for here, there in zip(with_unit, without, strict=True):
            share = 1.0 if there == 0 else min(1.0, false_positives / there)
            found, false_positives = found + share * here, false_positives - share * there
        return found

    stated = attack_bounds(eps, delta)
    for row in stated["true_positive_rate_at_most"]:
        assert row["true_positive_rate"] == pytest.approx(power(row["false_positive_rate"]))
    advantage = sum(abs(a - b) for a, b in zip(with_unit, without, strict=True)) / 2
    assert stated["advantage_at_most"] == pytest.approx(advantage)


def test_the_bounds_of_a_huge_epsilon_are_finite():
    stated = attack_bounds(5000.0, 1e-5)
    assert stated["advantage_at_most"] <= 1
    assert all(row["true_positive_rate"] <= 1 for row in stated["true_positive_rate_at_most"])
    assert render_markdown(statement(events=[("sum", gaussian(0.01), 1)]))
