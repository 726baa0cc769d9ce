"""``prior.normalise=auto``: a kind of image chosen by noised votes, at a cost known before."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

import dpdm
from dpdm.errors import RequestError
from dpdm.privacy import Ledger, PrivateUnits, Session, epsilon
from dpdm.privacy.accounting import Event
from dpdm.release.files import read_description
from dpdm.training import trainer
from dpdm.training.forecast import forecast
from dpdm.training.interrupt import Interrupted
from dpdm.training.plan import settle
from dpdm.training.prior import choice, design_choice, design_prior
from dpdm.training.prior.choice import ballots, choose, count_votes
from dpdm.training.prior.design import CANDIDATES
from dpdm.training.run import train
from dpdm.training.seeded_noise import SeededNoise

AUTO = ("training.steps=0", "prior.normalise=auto", "privacy.epsilon=1000", "sampling.count=40")


def about(size: int = 60_000, classes: int = 10, pixels: int = 784, **more: int) -> dict[str, int]:
    return {"public_size": size, "classes": classes, "pixels": pixels, **more}


def strokes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bars of two slants (uint8, 12x12), at any place and of any brightness."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 2
    y, x = (np.arange(12)[None] - 5.5 + generator.normal(0, 1.2, (count, 1)) for _ in range(2))
    slant = np.where(labels == 0, 0.5, -0.5)[:, None, None]
    inside = (np.abs(x[:, None] - slant * y[:, :, None]) < 1) & (np.abs(y[:, :, None]) < 4)
    level = generator.integers(90, 255, (count, 1, 1))
    return (inside * level).astype(np.uint8)[..., None], labels


class Exact(SeededNoise):
    """No noise."""

    def gaussian(self, shape, *, key):
        return np.zeros(shape)


def session(tmp_path, noise=None) -> Session:
    path = tmp_path / f"ledger-{len(list(tmp_path.iterdir()))}.jsonl"
    ledger = Ledger.create(path, dataset="d", unit="image", noise_source="s")
    return Session(ledger, noise or SeededNoise(0))


@pytest.mark.parametrize(
    ("given", "noise"),
    [
        (about(), 0.3),
        (about(), 4.0),
        (about(3000, 2), 1.0),
        (about(20_000, 10, 64), 0.5),
        (about(20_000, 10, 64), 3.0),
        (about(2000, 2, 3072, clusters=1), 1.0),
        (about(100_000, 200, 3072), 0.3),
    ],
)
def test_whatever_is_chosen_costs_the_same_and_all_of_it_what_one_mechanism_would(given, noise):
    design = design_choice(noise_multiplier=noise, **given)
    finals = design.choice.finals
    assert set(finals) == {candidate.normalise for candidate in CANDIDATES}
    assert len({tuple(final.events()) for final in finals.values()}) == 1
    whole = epsilon([(Event(noise), 1)], 1e-6)
    assert epsilon(design.events(), 1e-6) == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize(
    ("given", "noise", "chooses"),
    [
        (about(), 4.0, True),
        (about(3000), 0.5, True),
        (about(3000), 1.0, False),  # 300 a class over 1.0: poses need 0.25 of the budget
        (about(60_000, 1), 0.5, False),  # nothing to be right or wrong about
    ],
)
def test_where_images_are_too_few_they_are_taken_as_they_are(given, noise, chooses):
    design = design_choice(noise_multiplier=noise, **given)
    assert (design.choice is not None) == chooses
    if not chooses:
        assert design == design_prior(noise_multiplier=noise, **given)


def test_the_ledger_holds_what_was_announced_whichever_kind_was_chosen(tmp_path, monkeypatch):
    images, labels = strokes(2000)
    design = design_choice(noise_multiplier=0.5, **about(2000, 2, 144))
    for best in range(len(CANDIDATES)):
        wanted = [
            lambda rows, right=one == best: np.full(len(rows), -1 + right) for one in range(5)
        ]
        judges = iter(wanted)
        monkeypatch.setattr(choice, "taught", lambda *_, judges=judges: next(judges))
        opened = session(tmp_path)
        units = PrivateUnits(images, np.zeros_like(labels))
        chosen = choose(units, (1, 12, 12), 2, design, opened, 0, "kept")
        assert chosen.candidate == CANDIDATES[best]
        trainer.fit_prior(units, (1, 12, 12), 2, chosen.design, opened, 0)
        spent, planned = Counter(), Counter()
        for _, event, count in opened.ledger.counted_events():
            spent[event] += count
        for event, count in design.events():
            planned[event] += count
        assert spent == planned
        names = [name for name, _, _ in opened.ledger.counted_events()]
        assert "pilot (affine) poses" in names
        assert opened.ledger.repeated == 0


def test_of_candidates_that_differ_by_noise_alone_the_one_that_says_least_is_taken(
    tmp_path, monkeypatch
):
    images, _ = strokes(1000)
    design = design_choice(noise_multiplier=0.5, **about(2000, 2, 144))
    deviation = math.sqrt(len(CANDIDATES)) * design.choice.votes

    def chosen(*votes):
        found = iter([lambda rows, n=n: np.full(len(rows), n) for n in range(5)])
        monkeypatch.setattr(choice, "taught", lambda *_: next(found))
        monkeypatch.setattr(choice, "count_votes", lambda *_: (np.array(votes), deviation))
        units = PrivateUnits(images, np.zeros(1000, np.int64))
        return choose(units, (1, 12, 12), 2, design, session(tmp_path), 0, "kept").candidate

    assert chosen(500.0, 500.0, 500.0, 500.0, 500.0 + 1.9 * deviation) == CANDIDATES[0]
    assert chosen(500.0, 500.0, 500.0, 500.0, 500.0 + 2.1 * deviation) == CANDIDATES[4]


@pytest.mark.parametrize("images", [1, 3])
def test_a_person_moves_the_votes_by_at_most_their_sensitivity(tmp_path, images):
    """By all of it, where every judge is right of all of their images."""
    generator = np.random.default_rng(0)
    rows = generator.integers(0, 256, (20 + images, 8, 8, 1), dtype=np.uint8)
    labels, groups = np.arange(20 + images) % 3, np.minimum(np.arange(20 + images), 20)
    labels[20:] = 1
    judges = [lambda x, n=n: np.where(x[:, 0] > n / 9, 1, n % 3) for n in range(5)]
    rows[20:] = 255
    found = []
    for count in (20, 20 + images):
        units = PrivateUnits(rows[:count], labels[:count], groups[:count])
        votes, deviation = count_votes(units, judges, 0.7, session(tmp_path, Exact(0)))
        found.append(votes)
    moved = float(np.linalg.norm(found[1] - found[0]))
    assert moved == pytest.approx(math.sqrt(5), rel=1e-5)
    assert moved <= deviation / 0.7 + 1e-9


def test_an_images_ballot_is_the_same_whatever_others_there_are():
    images, labels = strokes(1500)
    fitted = choice.release_all(
        PrivateUnits(images, labels),
        (1, 12, 12),
        2,
        design_prior(noise_multiplier=0.0, **about(1500, 2, 144)),
        Session(None, SeededNoise(0)),
        0,
    )
    judges = [choice.taught(fitted.sampler(strength, "kept", False), 0) for strength in (0.0, 1.0)]
    whole = ballots(judges, images, labels)
    assert 0.5 < whole.mean() < 1.0
    for start, stop in ((1, 1500), (0, 700), (3, 1400)):
        own = ballots(judges, images[start:stop], labels[start:stop])
        np.testing.assert_array_equal(own, whole[start:stop])


def test_shapes_that_move_are_found_to_move(tmp_path):
    images, labels = strokes(4000)
    design = design_choice(noise_multiplier=0.1, **about(4000, 2, 144, clusters=1))
    units = PrivateUnits(images, labels)
    chosen = choose(units, (1, 12, 12), 2, design, session(tmp_path), 0, "kept")
    assert chosen.candidate.normalise == "affine"
    assert "normalise=affine" in chosen.in_words()
    assert chosen.to_json()["votes"]["normalise=none"] < max(chosen.votes)


def test_a_run_chooses_once_and_its_release_is_that_of_what_was_chosen(digits, small, tmp_path):
    said = []
    config = small(*AUTO)
    run = train(digits, config, tmp_path / "a", callback=lambda event: said.append(event.message))
    kept = run.folder.read_state()["prior_chosen"]
    assert any(line.startswith("prior.normalise=auto: normalise=") for line in said)
    assert kept["normalise"] in {candidate.normalise for candidate in CANDIDATES}
    assert read_description(run.release)["prior_chosen"] == kept
    statement = run.statement()
    assert statement["epsilon"] <= 1000
    names = [use["name"] for use in statement["mechanisms"]]
    assert "votes for a kind of image" in names
    images, _ = dpdm.load(run.release).sample(20, seed=0)
    assert images.shape == (20, 8, 8, 1)


def test_killed_after_the_choice_a_run_does_not_choose_again_beyond_its_budget(
    digits, small, tmp_path, monkeypatch
):
    def killed(*_):
        raise Interrupted("now")

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "fit_prior", killed)
        with pytest.raises(Interrupted):
            train(digits, small(*AUTO), tmp_path / "run")
    with pytest.raises(dpdm.DpdmError, match="would exceed epsilon 1000"):
        train(digits, small(*AUTO), tmp_path / "run", resume=True)


def test_what_auto_chooses_is_not_told_beside_it(small):
    with pytest.raises(RequestError, match=r"auto chooses prior\.augment and prior\.texture too"):
        small("prior.normalise=auto", "prior.texture=true")


@pytest.mark.parametrize(
    ("limit", "how"),
    [(1000, "chosen by noised votes"), (1, "left out: too few images for this epsilon")],
)
def test_a_plan_says_whether_there_is_a_choice(digits, small, limit, how):
    config = small("prior.normalise=auto", f"privacy.epsilon={limit}", "training.steps=0")
    found = dict(forecast(config, digits, torch.device("cpu")).rows())
    assert found["prior knows of the images"].startswith(f"prior.normalise=auto ({how}")


def test_images_without_classes_are_taken_as_they_are(digits, small):
    facts = digits.without_labels().facts("image")
    _, plan = settle(small(*AUTO, "data.labels=false"), facts)
    assert plan.prior.choice is None
