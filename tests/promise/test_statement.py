"""The statement: computed from what ran, legible, and without anything private in it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dpdm.privacy.accounting import epsilon
from dpdm.privacy.noise import SystemNoise
from dpdm.promise.attack import attack_bounds
from dpdm.promise.planning import gaussian, poisson_sampled_gaussian
from dpdm.promise.statement import build_statement
from dpdm.promise.wording import at_least, at_most, first_line, render_markdown, render_text
from dpdm.training.seeded_noise import SeededNoise

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
        "noise_source": SystemNoise().description,
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
OTHER_RUN = ("DP-SGD step", poisson_sampled_gaussian(0.05, 2.0), 50)
SHARED = statement(
    events=[COUNTS, STEPS, OTHER_RUN],
    unit="group",
    max_images_per_unit=4,
    this_run=[COUNTS, STEPS],
    runs=2,
    budget=(8.0, 1e-5),
)
SEEDED = statement(seeded=True, noise_source=SeededNoise(7).description)
DISABLED = statement(events=[], enabled=False, noise_source="none")
UNBOUNDED = statement(delta=1e-17)
NOTHING_RAN = statement(events=[])
ALL = [PRIVATE, SHARED, SEEDED, DISABLED, UNBOUNDED, NOTHING_RAN]
every = pytest.mark.parametrize(
    "stated", ALL, ids=["private", "shared", "seeded", "disabled", "unbounded", "nothing ran"]
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
    for spent in np.geomspace(1e-3, 50, 400).tolist():
        printed = float(first_line(PRIVATE | {"epsilon": spent}).split("epsilon = ")[1].split()[0])
        assert spent <= printed <= spent * 1.001


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
        "What an attacker could achieve",
        "| 0.1% |",
        "| 1.0% |",
        "| 10.0% |",
    ):
        assert part in text


def test_the_text_names_another_unit_where_one_is_protected():
    text = render_markdown(statement(unit="person"))
    assert "for every person in the data" in text
    assert "several images" not in text


def test_a_group_is_a_person_with_all_their_images():
    text = render_markdown(SHARED)
    assert SHARED["unit"] == "group"
    assert SHARED["max_images_per_unit"] == 4
    for part in (
        "for every person in the data, with all images of that person.",
        "Unit: all images of one person (group)",
        "however many they are",
        "no more than 4 images of a person",
        "plus or minus any one person and all their images",
        "under two names in it counts as two",
    ):
        assert part in text
    assert "several images is protected less" not in text


def test_with_images_as_units_the_text_says_what_k_images_of_a_person_mean():
    text = render_markdown(PRIVATE)
    assert "for k images, think of k times epsilon" in text
    assert "privacy.unit=group" in text


def test_with_a_shared_ledger_epsilon_is_what_all_runs_spent_on_the_data():
    everything = [COUNTS[1:], STEPS[1:], OTHER_RUN[1:]]
    assert SHARED["epsilon"] == epsilon(everything, 1e-5)
    assert SHARED["this_run"]["epsilon"] == epsilon([COUNTS[1:], STEPS[1:]], 1e-5)
    assert SHARED["this_run"]["epsilon"] < SHARED["epsilon"]
    assert [use["count"] for use in SHARED["mechanisms"]] == [1, 200, 50]
    assert [use["count"] for use in SHARED["this_run"]["mechanisms"]] == [1, 200]
    assert SHARED["ledger"] == {
        "runs": 2,
        "budget": {"epsilon": 8.0, "delta": 1e-5},
    }


def test_with_a_shared_ledger_the_text_tells_the_runs_apart():
    text = render_markdown(SHARED)
    for part in (
        "2 runs on these data share it",
        "epsilon above is for all of them together",
        "everything that the runs in the ledger released",
        "above epsilon 8 at delta 1e-05 in all",
        "the run that made this release did the following",
        "Releases from the same data that are not in this ledger",
    ):
        assert part in text
    assert "This run alone spent epsilon" in render_text(SHARED)
    assert "2 runs that share one ledger" in render_text(SHARED)


def test_of_a_run_alone_in_its_ledger_the_mechanisms_are_listed_once():
    text = render_markdown(statement(this_run=[COUNTS, STEPS]))
    assert text.count("| class counts |") == 1
    assert "One run is in it" in text


def test_without_a_ledger_to_name_the_statement_names_none():
    assert "ledger" not in PRIVATE
    assert "this_run" not in PRIVATE
    assert "## The ledger" not in render_markdown(PRIVATE)


def test_the_text_says_that_the_limits_on_attackers_come_from_the_curve():
    assert PRIVATE["attack_bounds"]["from"] == "trade-off curve"
    assert "trade-off curve of the mechanisms" in render_markdown(PRIVATE)


def test_the_limits_on_attackers_are_never_looser_than_those_of_epsilon_and_delta():
    loose = attack_bounds([(PRIVATE["epsilon"], PRIVATE["delta"])])
    tight = PRIVATE["attack_bounds"]
    assert tight["advantage_at_most"] < loose["advantage_at_most"]
    for a, b in zip(
        tight["true_positive_rate_at_most"], loose["true_positive_rate_at_most"], strict=True
    ):
        assert a["true_positive_rate"] < b["true_positive_rate"]


def test_a_statement_of_an_older_version_is_still_rendered():
    older = {key: PRIVATE[key] for key in PRIVATE if key != "max_images_per_unit"}
    older["attack_bounds"] = attack_bounds([(PRIVATE["epsilon"], PRIVATE["delta"])])
    del older["attack_bounds"]["curve"]
    assert "follow from epsilon and delta alone" in render_markdown(older)


@pytest.mark.parametrize(("noise", "weak"), [(0.4, True), (5.0, False)])
def test_a_weak_bound_is_called_weak(noise, weak):
    text = render_markdown(statement(events=[("sum", gaussian(noise), 1)]))
    assert ("weak protection" in text) is weak


def test_the_text_says_how_to_check_it():
    assert "dpdm privacy statement FOLDER" in render_markdown(PRIVATE)
    assert "no secret key" in render_markdown(PRIVATE)


def test_a_declared_size_is_a_public_fact():
    (fact,) = [line for line in PRIVATE["treated_as_public"] if "60123" in line]
    assert fact.startswith("The declared number of images")


def test_an_undeclared_size_is_said_to_be_treated_as_public():
    stated = statement(public_size_declared=False)
    (fact,) = [line for line in stated["treated_as_public"] if "60123" in line]
    assert fact.startswith("The exact number of images in the data set")
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


def test_a_bound_is_rounded_away_from_what_it_bounds_and_no_further():
    assert [at_most(value) for value in (0.2, 9.9942, 10.00001)] == ["0.2", "9.995", "10.01"]
    assert [at_least(value) for value in (0.3, 9.9948)] == ["0.3", "9.994"]
