"""The labeller: what it learns, what it spends, and that interruptions change neither."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import dpdm
from dpdm.data import Dataset
from dpdm.diffusion.images import to_model_space
from dpdm.errors import RequestError
from dpdm.networks import Labeller, load_weights
from dpdm.privacy import PrivateUnits, Session, epsilon, read_ledger
from dpdm.training.interrupt import Interrupted
from dpdm.training.labeller import LabellerState, learning_rate, train_labeller
from dpdm.training.plan import LabellerPlan, make_plan
from dpdm.training.run import train
from dpdm.training.seeded_noise import SeededNoise

LABELLED = (
    "training.steps=0",
    "labeller.enabled=true",
    "labeller.batch_size=128",
    "labeller.epochs=1",
)


def weight(path: Path) -> torch.Tensor:
    return load_weights(path / "release" / "model.safetensors")[0]["labeller.weight"]


def labeller_steps(path: Path) -> int:
    uses = read_ledger(path / "private" / "ledger.jsonl").counted_events()
    return sum(count for name, _, count in uses if name == "labeller step")


def interrupt_at(step: int):
    def callback(event) -> None:
        record = event.record
        if record is not None and (record.phase, record.step) == ("labeller", step):
            os.kill(os.getpid(), signal.SIGINT)

    return callback


def without_noise(digits: Dataset, small, steps: int, groups=None, each: int = 1, **changes):
    """The labeller after ``steps`` full batches without noise or clipping."""
    config = small(*LABELLED, "labeller.learning_rate=0.5")
    if groups is not None:
        config = small(
            *LABELLED,
            "labeller.learning_rate=0.5",
            "privacy.unit=group",
            f"privacy.max_images_per_unit={each}",
            f"views.count={each}",
        )
    images = np.asarray(digits.private_images)[:60]
    labels = np.asarray(digits.private_labels)[:60]
    units = PrivateUnits(images, labels, groups)
    labeller = Labeller((1, 8, 8), 10)
    count = 60 if groups is None else len(np.unique(groups))
    plan = LabellerPlan(1.0, steps, 0.0, count)
    session = Session(None, SeededNoise(0))
    list(train_labeller(config, plan, LabellerState.begin(labeller), units, session))
    return labeller, to_model_space(np.array(images)), torch.from_numpy(np.array(labels))


def by_autograd(labeller: Labeller, images, labels, steps: int, weights) -> torch.Tensor:
    """Gradient descent with momentum on a weighted sum of losses, written out."""
    features = labeller.features(images)
    weight = torch.zeros_like(labeller.weight, requires_grad=True)
    momentum = torch.zeros_like(weight)
    for _ in range(steps):
        losses = F.cross_entropy(features @ weight, labels, reduction="none")
        (gradient,) = torch.autograd.grad((weights * losses).sum(), weight)
        momentum = 0.9 * momentum + gradient
        weight = (weight - 0.5 * momentum).detach().requires_grad_()
    return weight.detach()


def test_without_noise_it_is_plain_gradient_descent(digits, small):
    labeller, images, labels = without_noise(digits, small, 5)
    expected = by_autograd(labeller, images, labels, 5, torch.full((60,), 1 / 60))
    torch.testing.assert_close(labeller.weight.data, expected, rtol=1e-3, atol=1e-6)
    assert (labeller(images).argmax(1) == labels).float().mean() > 0.8


def test_a_group_counts_once_with_the_mean_over_its_images(digits, small):
    groups = np.repeat(np.arange(20), 3)
    labeller, images, labels = without_noise(digits, small, 4, groups, each=3)
    expected = by_autograd(labeller, images, labels, 4, torch.full((60,), 1 / 60))
    torch.testing.assert_close(labeller.weight.data, expected, rtol=1e-3, atol=1e-6)


def test_where_features_do_not_fit_they_are_computed_anew(digits, small, monkeypatch):
    kept, *_ = without_noise(digits, small, 3)
    monkeypatch.setattr("dpdm.training.labeller._KEPT_BYTES", 0)
    anew, *_ = without_noise(digits, small, 3)
    assert torch.equal(kept.weight, anew.weight)


def test_the_plan_spends_its_share_and_the_whole_run_the_budget(small):
    config = small("labeller.enabled=true", "labeller.share=0.3", "training.steps=6")
    plan = make_plan(config, public_size=1437, classes=10, pixels=64)
    privacy = config.privacy
    assert plan.labeller is not None
    own = epsilon(plan.labeller.events(), privacy.delta, privacy.accountant)
    assert 0.29 * privacy.epsilon < own <= 0.3 * privacy.epsilon
    assert 0.99 * privacy.epsilon < epsilon(plan.events(), privacy.delta) <= privacy.epsilon


def test_a_prior_beside_it_has_what_it_leaves(small):
    config = small(*LABELLED)
    plan = make_plan(config, public_size=1437, classes=10, pixels=64)
    assert plan.prior is not None
    spent = epsilon(plan.events(), config.privacy.delta)
    assert 0.99 * config.privacy.epsilon < spent <= config.privacy.epsilon


def test_a_batch_larger_than_the_data_is_all_of_it(small):
    config = small(*LABELLED, "labeller.batch_size=4096")
    plan = make_plan(config, public_size=1437, classes=10, pixels=64)
    assert plan.labeller is not None
    assert plan.labeller.sample_rate == 1.0
    assert plan.labeller.batch_size == 1437


def test_of_a_million_images_it_takes_no_more_steps_than_are_worth_it(small):
    config = small("training.steps=0", "labeller.enabled=true", "privacy.delta=1e-7")
    plan = make_plan(config, public_size=1_000_000, classes=10, pixels=64).labeller
    assert plan.steps == 500


def test_an_unset_rate_falls_with_the_noise_and_a_set_one_stands(small):
    def rate(noise: float, *settings: str, features: int = 4000) -> float:
        plan = LabellerPlan(0.07, 290, noise, 4096)
        return learning_rate(small(*LABELLED, *settings), plan, features)

    assert rate(0.0) == rate(1.0) == 8.0
    assert rate(40.0) == pytest.approx(rate(20.0) / 2)
    assert rate(40.0, features=16_000) == pytest.approx(rate(40.0) / 2)
    assert rate(40.0, "labeller.learning_rate=3") == 3.0


def test_ledger_and_statement_have_every_step(digits, small, tmp_path):
    run = train(digits, small(*LABELLED), tmp_path / "run")
    assert labeller_steps(tmp_path / "run") == 11
    uses = {use["name"]: use for use in run.statement()["mechanisms"]}
    assert uses["labeller step"]["count"] == 11
    assert uses["labeller step"]["event"]["sample_rate"] == pytest.approx(128 / 1437)
    assert run.statement()["epsilon"] <= 10.0


def test_samples_show_to_the_labeller_what_their_labels_say(digits, small, tmp_path):
    config = small(*LABELLED, "labeller.epochs=8", "labeller.share=0.5")
    model = train(digits, config, tmp_path / "run").model()
    images, labels = model.sample(300, seed=1)
    assert (model.read(images, labels) == labels).mean() > 0.95
    as_asked, same = model.sample(300, seed=1, relabel=False)
    assert np.array_equal(labels, same)
    assert 0.6 < (model.read(as_asked) == labels).mean() < 1.0
    again, _ = model.sample(300, seed=1)
    assert np.array_equal(images, again)
    test = dpdm.open_dataset("digits@test")
    assert (model.read(test.private_images) == test.private_labels).mean() > 0.85


def test_the_labeller_alone_is_asked_where_the_setting_says_so(digits, small, tmp_path):
    settings = ["labeller.epochs=8", "labeller.share=0.5", "privacy.noise_seed=1"]
    model = train(digits, small(*LABELLED, *settings), tmp_path / "run").model()
    images, labels = model.sample(300, seed=1)
    together = (model.read(images) == labels).mean()
    alone = small(*LABELLED, *settings, "sampling.reading=labeller").sampling
    other = replace(model, config=model.config.model_copy(update={"sampling": alone}))
    images, labels = other.sample(300, seed=1)
    assert (model.read(images) == labels).mean() > max(0.98, together + 0.02)


def test_guidance_moves_samples_to_where_the_labeller_finds_their_label(digits, small, tmp_path):
    settings = [*LABELLED, "labeller.epochs=8", "labeller.share=0.5", "privacy.noise_seed=1"]
    plain = train(digits, small(*settings), tmp_path / "plain").model()
    model = train(
        digits, small(*settings, "sampling.labeller_guidance=1"), tmp_path / "run"
    ).model()
    images, labels = model.sample(200, seed=1)
    as_drawn, same = plain.sample(200, seed=1)
    assert np.array_equal(labels, same)
    assert (model.read(images) == labels).mean() > max(
        0.99, (model.read(as_drawn) == labels).mean()
    )
    moved = np.abs(images.astype(int) - as_drawn)
    assert 0 < moved.mean() < 20
    for other in (model.sample(200, seed=1, labeller_guidance=0), plain.sample(200, seed=1)):
        assert np.array_equal(other[0], as_drawn)
    assert np.array_equal(plain.sample(200, seed=1, labeller_guidance=1)[0], images)
    as_asked = [each.sample(200, seed=1, relabel=False)[0] for each in (model, plain)]
    assert np.array_equal(*as_asked)
    for scale in (-1, 21, np.nan):
        with pytest.raises(
            RequestError, match=f"--labeller-guidance {scale:g}: use a number from 0"
        ):
            model.sample(2, labeller_guidance=scale)


def test_guidance_needs_a_labeller(digits, small, tmp_path):
    with pytest.raises(RequestError, match=r"sampling\.labeller_guidance=1 needs"):
        small("sampling.labeller_guidance=1")
    with pytest.raises(
        RequestError, match=r"sampling\.labeller_guidance.*less than or equal to 20"
    ):
        small(*LABELLED, "sampling.labeller_guidance=21")
    with pytest.raises(RequestError, match=r"far\.labeller_guidance=1 needs"):
        small("sampling.alternatives={far: {labeller_guidance: 1}}")
    settings = (*LABELLED, "sampling.labeller_guidance=1", "data.labels=false")
    model = train(digits, small(*settings), tmp_path / "run").model()
    assert model.sample(3)[0].shape == (3, 8, 8, 1)
    assert model.config.sampling.labeller_guidance == 0
    with pytest.raises(RequestError, match="no labeller"):
        model.sample(3, labeller_guidance=1)


def test_an_interrupted_labeller_goes_on_to_the_same_weights(digits, small, tmp_path):
    config = small(*LABELLED, "privacy.noise_seed=1")
    train(digits, config, tmp_path / "whole")
    with pytest.raises(Interrupted, match="--resume"):
        train(digits, config, tmp_path / "run", callback=interrupt_at(5))
    train(digits, config, tmp_path / "run", resume=True)
    assert torch.equal(weight(tmp_path / "whole"), weight(tmp_path / "run"))


def test_steps_that_were_lost_are_not_spent_beyond_the_plan(digits, small, tmp_path):
    path = tmp_path / "run"
    config = small(*LABELLED)
    with pytest.raises(Interrupted):
        train(digits, config, path, callback=interrupt_at(7))
    # As if the state after step 7 had never been written: its steps are in the ledger all the same.
    (path / "private" / "checkpoints" / "labeller.safetensors").unlink()
    run = train(digits, config, path, resume=True)
    assert labeller_steps(path) == 11
    assert run.statement()["epsilon"] <= 10.0
    assert weight(path).any()


def test_images_without_classes_get_none(digits, small, tmp_path):
    run = train(digits, small(*LABELLED, "data.labels=false"), tmp_path / "run")
    model = run.model()
    assert model.labeller is None
    assert labeller_steps(tmp_path / "run") == 0
    with pytest.raises(RequestError, match="no labeller"):
        model.read(np.zeros((1, 8, 8, 1), np.uint8))


def test_without_privacy_it_is_trained_without_noise(digits, small, tmp_path):
    run = train(digits, small(*LABELLED, "privacy.enabled=false"), tmp_path / "run")
    assert run.model().labeller is not None
    assert not run.statement()["private"]
