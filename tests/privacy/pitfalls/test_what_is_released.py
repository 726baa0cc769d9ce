"""The known ways to be wrong inside a mechanism: 1 and 3 to 8 of docs/privacy.md's twelve.

Each has an attack on the code as it is, which must fail, and the same attack on the code with its
guard taken out, which must succeed: so the test would see the fault. The attacker knows every
other unit, the settings and everything that is published. 2 and 9 to
11 are in ``test_what_surrounds_it.py``, 12 in ``test_floating_point.py``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta
from torch import nn

from dpdm import privacy
from dpdm.config import load_config
from dpdm.data import Dataset
from dpdm.lanes import Lanes
from dpdm.networks import EMA, Adam
from dpdm.privacy import (
    DpSgdStep,
    NoisedScatter,
    NoisedSum,
    PrivateUnits,
    Session,
    UnsupportedModuleError,
    mechanisms,
    per_unit_gradients,
    units,
)
from dpdm.privacy.gradients import (
    ClippedSum,
    clip_and_sum,
    clipping,
    engine,
    one_by_one,
    rules_normalisation,
    verification,
)
from dpdm.promise.attack import privacy_curve, true_positive_rate
from dpdm.training import differentiation, loop, run, view_gradients
from dpdm.training.checkpoint import TrainingState
from dpdm.training.plan import make_plan
from dpdm.training.prior import features, releases
from dpdm.training.prior.design import PriorDesign
from dpdm.training.seeded_noise import SeededNoise
from dpdm.training.trainer import build_for

Release = Callable[[PrivateUnits, Session], Any]
SIGMA, C, EXPECTED = 2.0, 0.5, 8.0
"""Noise multiplier, clip norm and divisor of the steps that are attacked."""

HOLDS = 1 + 1e-6
"""A movement of at most this is within the claim: what leaves a step is rounded to float32."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Constant:
    """A noise source that draws one number only, and has every unit in every sample."""

    private, description = True, "none"

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def gaussian(self, shape, *, key):
        return np.full(shape, self.value)

    def poisson_mask(self, n, rate, *, key):
        return np.ones(n, bool)


@dataclass(frozen=True)
class Watched(Session):
    """The attacker's seat: sees every release; nothing is written down."""

    left: list

    def __post_init__(self) -> None:
        pass

    def spend(self, mechanism, step):
        return self.noise

    def publish(self, mechanism, step, value):
        tensors = [torch.as_tensor(v) for v in (value.values() if type(value) is dict else [value])]
        self.left.append((mechanism, torch.cat([t.flatten().double() for t in tensors]).numpy()))
        return value


def last(release: Release, data: PrivateUnits, noise: Any) -> tuple[Any, np.ndarray]:
    """The mechanism that ran last, and what left it."""
    session = Watched(None, noise, [])
    release(data, session)
    return session.left[-1]


def movement(release: Release, fewer: PrivateUnits, more: PrivateUnits) -> float:
    """How far one unit moves what leaves, over what its event claims. Above 1, the claim is false.

    An event says: noise of ``noise_multiplier`` times the movement. Both are measured: the movement
    with noise that is zero, the noise's deviation with normals that are all one.
    """
    (mechanism, one), (_, other) = (last(release, data, Constant()) for data in (fewer, more))
    deviation = np.abs(last(release, more, Constant(1.0))[1] - other).max()
    return float(np.linalg.norm(other - one) / deviation * mechanism.event.noise_multiplier)


def as_gradient(rows, labels):
    """The gradient of a unit is its row."""
    return rows.norm(dim=1), {"weight": rows}


def step(entries: int = 3) -> Release:
    """One step of DP-SGD on units whose gradient is their row, sampled with certainty."""
    mechanism = DpSgdStep(1.0, SIGMA, C, EXPECTED, microbatch=4)
    like = {"weight": torch.zeros(entries)}
    return lambda data, session: mechanism.release(data, as_gradient, like, session, 0)


def rows_of(*rows: list[float]) -> PrivateUnits:
    return PrivateUnits(torch.tensor(rows))


# 1. Dividing by the realised batch size


def attack_1() -> float:
    """Twenty gradients point one way, the target's the other. Divided by a constant, the target
    moves the mean by C / B. Divided by the number of units in the batch, as a training loop without
    privacy does, it also moves everyone else's share, and the noise shrinks with each unit that
    takes part. (jax_privacy, pitfalls; Ponomareva et al. 2023, "How to DP-fy ML".)"""
    others = [[-9.0, 0.0, 0.0]] * 20
    return movement(step(), rows_of(*others), rows_of(*others, [9.0, 0.0, 0.0]))


def test_1_the_divisor_is_a_public_constant():
    assert attack_1() <= HOLDS


def test_1_undone_a_divisor_that_is_the_realised_batch_is_seen(monkeypatch):
    proper = DpSgdStep.release

    def by_realised_batch(self, data, function, parameters, session, number):
        count = data._count(units.DOOR)
        batch = session.noise.poisson_mask(count, self.sample_rate, key=("poisson", number)).sum()
        changed = replace(self, expected_units=max(int(batch), 1))
        return proper(changed, data, function, parameters, session, number)

    monkeypatch.setattr(DpSgdStep, "release", by_realised_batch)
    assert attack_1() > 1.5


# 3. Sampling that is not what is accounted


def attack_3(trials: int, steps: int, rate: float, sigma: float, others: float) -> float:
    """The accountant assumes that each unit joins each step independently (Poisson). Shuffled data
    has every unit once in an epoch, so that the largest of an epoch's releases betrays it far more
    often (Chua et al. 2024, "How Private are DP-SGD Implementations?"); a batch of fixed size drops
    another unit for each one it takes, which moves the sum by 2 C (Opacus issue 80).

    The attacker says "in" where the largest of the released sums is above a threshold. Returns the
    true-positive rate by which this beats the claimed trade-off curve, both rates taken at the end
    of their 99.9% confidence interval that favours the claim: above 0, the claim is false."""
    mechanism = DpSgdStep(rate, sigma, 1.0, 1.0, 64)

    def score(data: PrivateUnits, seed: int) -> float:
        session = Watched(None, SeededNoise(seed), [])
        for number in range(steps):
            mechanism.release(data, as_gradient, {"weight": torch.zeros(1)}, session, number)
        return max(value[0] for _, value in session.left)

    crowd = [[others]] * 39
    without = np.array([score(rows_of(*crowd), seed) for seed in range(trials)])
    within = np.array([score(rows_of(*crowd, [1.0]), -1 - seed) for seed in range(trials)])
    threshold = np.quantile(without, 0.95)
    false, true = int((without > threshold).sum()), int((within > threshold).sum())
    at_most, at_least = (
        beta.ppf(0.999, false + 1, trials - false),
        beta.ppf(0.001, max(true, 1), trials - true + 1),
    )
    curve = privacy_curve([(mechanism.event, steps)])
    return float(at_least - true_positive_rate(curve, at_most))


AN_EPOCH = (80, 10, 0.1, 0.3, 0.0)
A_STEP = (400, 1, 0.5, 0.5, -1.0)


@pytest.mark.parametrize("setting", [AN_EPOCH, A_STEP], ids=["an epoch", "a step"])
def test_3_what_the_sampling_gives_away_is_what_is_accounted(setting):
    assert attack_3(*setting) <= 0


def _shuffled(self, n, rate, *, key):
    """Epochs of one permutation each, cut into batches."""
    steps = round(1 / rate)
    epoch = np.random.default_rng([abs(self._seed), key[1] // steps]).permutation(n)
    return np.isin(np.arange(n), np.array_split(epoch, steps)[key[1] % steps])


def _shuffled_and_dropped(self, n, rate, *, key):
    """The same with batches of one size; what is left over at the end of an epoch is dropped."""
    size, epoch = int(n * rate), np.random.default_rng(abs(self._seed)).permutation(n)
    return np.isin(np.arange(n), epoch[size * key[1] : size * (key[1] + 1)])


def _of_fixed_size(self, n, rate, *, key):
    """As many units as are expected, without replacement."""
    generator = np.random.default_rng([abs(self._seed), key[1]])
    return np.isin(np.arange(n), generator.choice(n, round(39 * rate), replace=False))


@pytest.mark.parametrize(
    ("setting", "mask"),
    [(AN_EPOCH, _shuffled), (AN_EPOCH, _shuffled_and_dropped), (A_STEP, _of_fixed_size)],
)
def test_3_undone_another_sampling_gives_more_away(monkeypatch, setting, mask):
    monkeypatch.setattr(SeededNoise, "poisson_mask", mask)
    assert attack_3(*setting) > 0.02


# 4. A sensitivity that is wrong for the adjacency


def prior_release(name: str) -> Release:
    """One of the prior's releases, for images of two classes and four coefficients."""
    shares = dict.fromkeys(("means", "scatter", *STATISTICS), 0.2)
    # A row is coefficients alone; of the last two statistics, a pose or energies alone.
    design = PriorDesign(0 if name in ("poses", "texture") else 3, 2, 1.5, shares)
    means, directions = np.zeros((2, 3)), np.eye(3)[:, :2]
    centres = np.array([[[1.0, 0.0], [-1.0, 0.0]]] * 2)
    calls = {
        "moments": lambda r: r.moments(),
        "class means": lambda r: r.class_sums(np.zeros(3), 0.7),
        "pooled scatter": lambda r: r.scatter(means, 0.7),
        "clusters": lambda r: r.cluster_step(means, directions, centres, 0.7, 3),
        "class scatter": lambda r: r.class_scatter(means, directions, centres, np.eye(3), 0.7),
        "cluster scatter": lambda r: r.cluster_scatter(
            means, directions, centres, np.stack([np.eye(3)] * 2), np.ones(2), 0.7
        ),
        "poses": lambda r: r.poses(),
        "texture": lambda r: r.texture(0.35),
    }
    return lambda data, session: calls[name](releases.Releases(data, 4, 2, design, session))


STATISTICS = (
    "moments",
    "class means",
    "pooled scatter",
    "clusters",
    "class scatter",
    "cluster scatter",
    "poses",
    "texture",
)


def attack_4(name: str, images: int = 1, grouped: bool = True) -> float:
    """A unit is added, none replaced: it moves a sum by C, and what it brings beside its vector (a
    count) and elsewhere (other segments, other images of the same person) has to fit within that C
    too. Forgetting any of these is a noise too small by a constant factor, which no output shows.
    (Ponomareva et al. 2023, on the unit and the adjacency.) The target is one person with
    some images of full length, in both classes and both clusters."""
    generator = np.random.default_rng(0)
    others = 0.1 * generator.standard_normal((6, 4))
    own = np.outer([(-1.0) ** i for i in range(images)], [2.0, 0.0, 0.0, 0.0])
    labels = np.concatenate([np.arange(6) % 2, np.arange(images) % 2])
    groups = np.minimum(np.arange(6 + images), 6) if grouped else None
    more = PrivateUnits(np.concatenate([others, own]), labels, groups)
    fewer = PrivateUnits(others, labels[:6], np.arange(6) if grouped else None)
    return movement(prior_release(name), fewer, more)


@pytest.mark.parametrize("images", [1, 5])
@pytest.mark.parametrize("name", STATISTICS)
def test_4_a_person_moves_a_statistic_of_the_prior_no_further_than_claimed(name, images):
    assert 0.3 < attack_4(name, images) <= HOLDS


@pytest.mark.parametrize("name", STATISTICS)
def test_4_undone_a_sensitivity_of_half_is_seen(monkeypatch, name):
    """Noise for a deviation of C / 2 from the centre, as if every unit were in the data anyway."""
    for kind in (NoisedSum, NoisedScatter):
        proper = kind.sensitivity.fget
        half = property(lambda self, proper=proper: proper(self) / 2)
        monkeypatch.setattr(kind, "sensitivity", half)
    assert attack_4(name) > 1.1


def test_4_undone_a_count_that_the_sensitivity_forgets_is_seen(monkeypatch):
    @dataclass(frozen=True)
    class Forgetful(NoisedSum):
        @property
        def sensitivity(self):
            return self.max_norm / math.sqrt(1.25)  # the vector's norm without the count's

    monkeypatch.setattr(releases, "NoisedSum", Forgetful)
    assert attack_4("clusters") > 1.1


@pytest.mark.parametrize("name", STATISTICS)
def test_4_undone_a_person_in_two_segments_is_seen(monkeypatch, name):
    """Every image clipped by itself, and all of a person's images added up."""
    proper = PrivateUnits._vectors
    monkeypatch.setattr(
        PrivateUnits,
        "_vectors",
        lambda self, *given: [(*block[:2], None) for block in proper(self, *given)],
    )
    assert attack_4(name, images=5) > 1.5


# 5. Augmentation or views counted as units


def attack_5_augmentation() -> float:
    """One image is added to the data set that the training seals. If the data set holds a turned
    copy of each image, as units of their own, one person is in it twice and moves twice as much.
    (De et al. 2022 average the copies of an image before they clip, instead.)"""
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), dtype=np.uint8)
    images[4] = 255

    def sealed(count: int) -> PrivateUnits:
        dataset = Dataset("d", (4, 4, 1), (), 5, True, images[:count])
        return run.seal(dataset, load_config("digits"))[1]

    def release(data: PrivateUnits, session: Session) -> Any:
        pixels = lambda rows, _: rows.reshape(len(rows), -1).astype(float)  # noqa: E731
        return NoisedSum("pixels", 1.0, 1.0).release(data, pixels, session)

    return movement(release, sealed(4), sealed(5))


def test_5_the_training_seals_each_image_once():
    assert attack_5_augmentation() <= HOLDS


def test_5_undone_a_turned_copy_as_a_second_unit_is_seen(monkeypatch):
    def with_copies(images, labels=None, groups=None):
        return PrivateUnits(np.concatenate([images, images[:, :, ::-1]]), labels, groups)

    monkeypatch.setattr(run, "PrivateUnits", with_copies)
    assert attack_5_augmentation() > 1.9


TINY = (
    "training.batch_size=4",
    "training.microbatch=4",
    "training.steps=1",
    "training.least_signal=0",
    "views.count=4",
    "views.law=iid",
    "network.base_channels=4",
    "network.multipliers=[1]",
    "network.blocks=1",
    "network.attention=[]",
    "network.noise_frequencies=[2.0, 0.1]",
    "prior.enabled=false",
    "diffusion.base=skip",
    "privacy.accountant=rdp",
    "privacy.max_grad_norm=0.001",
)


def dp_sgd_step(data: PrivateUnits, session: Session) -> Any:
    """One step of the training loop itself: views, a real network, its per-unit gradients."""
    config = load_config("digits", TINY)
    facts = SimpleNamespace(image_shape=(1, 4, 4), classes=())
    plan = make_plan(config, public_size=100, classes=0, pixels=16)
    denoiser = build_for(config, facts, None)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for parameter in denoiser.parameters():  # some layers start at zero
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    network = denoiser.network
    state = TrainingState(network, Adam(network), EMA(network, 0.9),
                          "DP-SGD", 0)  # fmt: skip
    lanes, may_step = Lanes(1), lambda: True
    return next(loop.dp_sgd(config, plan, denoiser, data, session, state, 8, lanes, may_step))


def digit_units(*which: int) -> PrivateUnits:
    return PrivateUnits(
        np.random.default_rng(0).integers(0, 256, (9, 4, 4, 1), dtype=np.uint8)[list(which)]
    )


@pytest.fixture
def views_kept(monkeypatch) -> None:
    """The same views in every run, so that two runs differ by the unit alone."""
    monkeypatch.setattr(loop.secrets, "randbits", lambda bits: 7)


def attack_5_views() -> float:
    """Noise multiplicity shows the network several noised views of an image. Their losses are
    averaged before the gradient is clipped; views that are clipped one by one would each add up to
    C for the same image. (Dockhorn et al. 2023, eq. 7.)"""
    return movement(dp_sgd_step, digit_units(0, 1), digit_units(0, 1, 2))


@pytest.mark.usefixtures("views_kept")
def test_5_all_views_of_an_image_together_move_a_step_by_c():
    assert 0.9 < attack_5_views() <= HOLDS


@pytest.mark.usefixtures("views_kept")
def test_5_undone_views_that_count_as_units_are_seen(monkeypatch):
    def each_view(module, loss, inputs, views, whole):
        return per_unit_gradients(module, loss, inputs)

    def clip_views(gradients, max_norm, weights):
        count = len(next(iter(gradients.values()))) // len(weights)
        return clip_and_sum(gradients, max_norm, weights.repeat_interleave(count))

    monkeypatch.setattr(differentiation, "per_unit_gradients", each_view)
    monkeypatch.setattr(mechanisms, "clip_and_sum", clip_views)
    assert attack_5_views() > 1.2


# 6. Operations across units


class BatchMean(nn.Module):
    """Centres by the batch: no layer that a list of names could refuse."""

    def forward(self, x):
        return x - x.mean(0)


def own_loss(module, x):
    return module(x).square().mean(1)


def contrastive_loss(module, x):
    """Every unit is to differ from all others (InfoNCE)."""
    z = module(x)
    return -(z @ z.T).log_softmax(1).diagonal()


MIXING = {
    "batch normalisation": (lambda: nn.BatchNorm1d(3, affine=False), own_loss),
    "batch mean": (BatchMean, own_loss),
    "contrastive loss": (nn.Identity, contrastive_loss),
}


def mixing(kind: str) -> tuple[nn.Module, Callable[..., torch.Tensor]]:
    """A small network with one thing in it that mixes units, and its loss."""
    make, loss = MIXING[kind]
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), make(), nn.Linear(3, 2)), loss


def attack_6(kind: str) -> float:
    """Clipping bounds one unit's gradient, not what the unit does to the gradients of others: an
    outlier that shifts a batch's mean turns all of them. (Opacus refuses batch normalisation for
    this.) Returns how many C the target moves the sum, 0 where the module is refused."""
    module, loss = mixing(kind)
    rows = torch.randn(8, 4)
    rows[7] *= 50.0
    try:
        privacy.validate(module, loss, (torch.randn(4, 4),))
        sums = [
            clip_and_sum(per_unit_gradients(module, loss, (part,))[1], 1e-3).sums
            for part in (rows, rows[:7])
        ]
    except UnsupportedModuleError:
        return 0.0
    return math.sqrt(sum(float((sums[0][n] - sums[1][n]).square().sum()) for n in sums[0])) / 1e-3


@pytest.mark.parametrize("kind", MIXING)
def test_6_what_mixes_units_is_refused_before_it_sees_any(kind):
    module, loss = mixing(kind)
    with pytest.raises(UnsupportedModuleError):
        privacy.validate(module, loss, (torch.randn(4, 4),))


@pytest.mark.parametrize("kind", MIXING)
def test_6_what_mixes_units_is_refused_by_its_gradients_without_that(monkeypatch, kind):
    monkeypatch.setattr(privacy, "validate", lambda *_: None)
    assert attack_6(kind) == 0.0


@pytest.mark.parametrize("kind", MIXING)
def test_6_undone_one_unit_moves_the_others(monkeypatch, kind):
    monkeypatch.setattr(privacy, "validate", lambda *_: None)
    monkeypatch.setattr(engine, "refuse_by_type", lambda *_: None)
    monkeypatch.setattr(engine, "_compare", lambda *_: None)
    monkeypatch.setattr(one_by_one, "refuse_mixing", lambda *_: None)
    monkeypatch.setattr(rules_normalisation, "_BATCH_STATISTICS", {})
    for name in ("first", "rest"):
        monkeypatch.setattr(verification.Verification, name, lambda *_: None)
    assert attack_6(kind) > 2.0


def attack_6_contributions(name: str) -> float:
    """A contribution that subtracts the mean of the images it is given makes a statistic of all of
    them out of each; clipping cannot undo that. Returns how far an image's vector moves, in C, when
    an outlier joins the others."""
    seen: list[np.ndarray] = []

    def watch(rows: np.ndarray, labels: np.ndarray) -> None:
        class Eyes:
            def _vectors(self, door, contribution):
                result = contribution(rows, labels)
                vectors, segments = result if isinstance(result, tuple) else (result, None)
                seen.append(mechanisms.clip_rows(vectors, 0.7)[:4])
                return [(vectors, segments, None)]

        prior_release(name)(Eyes(), Watched(None, Constant(), []))  # type: ignore[arg-type]

    rows = np.random.default_rng(0).standard_normal((5, 4)) * 0.3
    rows[4] = 100.0
    watch(rows[:4], np.arange(4) % 2)
    watch(rows, np.arange(5) % 2)
    return float(np.abs(seen[0] - seen[1]).max() / 0.7)


@pytest.mark.parametrize("name", STATISTICS)
def test_6_an_images_contribution_to_the_prior_follows_from_it_alone(name):
    assert attack_6_contributions(name) < 1e-12


def test_6_the_features_of_an_image_follow_from_it_and_what_was_released():
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 1), dtype=np.uint8)
    labels = np.arange(9) % 2
    frame = features.DctFrame((1, 4, 4), 12)
    made = features.PosedFeatures(frame, np.array([[0.1] * 6, [-0.1] * 6]), np.full(6, 0.2))
    together = made(images, labels)
    apart = [made(images[i : i + 1], labels[i : i + 1]) for i in range(9)]
    np.testing.assert_allclose(together, np.concatenate(apart), rtol=1e-4, atol=1e-5)


def test_6_features_that_look_at_other_images_are_refused():
    units = PrivateUnits(np.zeros((5, 4, 4, 1), np.uint8), np.arange(5) % 2)
    with pytest.raises(ValueError, match="depends on other images"):
        units.prepare(lambda rows, labels: rows.reshape(len(rows), -1) - rows.mean())


@pytest.mark.parametrize("name", ["pooled scatter", "clusters", "class scatter", "cluster scatter"])
def test_6_undone_a_contribution_that_subtracts_the_batchs_mean_is_seen(monkeypatch, name):
    proper = releases.Releases._residuals

    def centred(*given):
        residuals = proper(*given)
        return residuals - residuals.mean(axis=0)

    monkeypatch.setattr(releases.Releases, "_residuals", centred)
    assert attack_6_contributions(name) > 0.5


@pytest.mark.parametrize("name", ["pooled scatter", "clusters", "class scatter", "cluster scatter"])
def test_6_a_contribution_that_looks_at_other_images_is_refused(monkeypatch, name):
    proper = releases.Releases._residuals
    monkeypatch.setattr(
        releases.Releases, "_residuals", lambda *g: proper(*g) - proper(*g).mean(axis=0)
    )
    units = PrivateUnits(np.random.default_rng(0).standard_normal((5, 4)), np.arange(5) % 2)
    with pytest.raises(ValueError, match="depends on other images"):
        prior_release(name)(units, Watched(None, Constant(), []))  # type: ignore[arg-type]


def attack_6_views() -> float:
    """The noise levels and noises of the views are drawn for places in the batch. Who knows their
    seed (``training.seed`` is in the release) knows every draw; a unit that is added in front then
    moves all others to other places, other views and other gradients, and that is not bounded by C.
    If the seed is secret the draws are the same whoever sits where, and nothing is gained. Returns
    how many C the sum moves for an attacker who works the rest out beforehand, 0 where he cannot.
    """
    beforehand, alone = (last(dp_sgd_step, digit_units(1, 2, 3), Constant())[1] for _ in range(2))
    if not np.array_equal(beforehand, alone):
        return 0.0
    return movement(dp_sgd_step, digit_units(1, 2, 3), digit_units(0, 1, 2, 3))


def test_6_the_views_of_one_unit_do_not_follow_from_who_else_is_in_the_batch():
    assert attack_6_views() <= HOLDS


def test_6_undone_views_from_a_known_seed_are_seen(monkeypatch):
    def known(*_: object) -> torch.Generator:
        return torch.Generator().manual_seed(0)

    monkeypatch.setattr(view_gradients, "keyed_generator", known)
    assert attack_6_views() > 1.2


# 7. Gradient accumulation


def attack_7_clipping() -> float:
    """Microbatches are for memory. If the sum of a microbatch is clipped instead of each gradient
    in it, one unit that outweighs the others turns the whole sum round: 2 C. (Ponomareva et al.
    2023, section 5.6: microbatching doubles the sensitivity.)"""
    return movement(step(), rows_of([9.0, 0.0, 0.0]), rows_of([9.0, 0.0, 0.0], [-99.0, 0.0, 0.0]))


def attack_7_noise(microbatches: int) -> float:
    """The deviation of a step's noise over the claimed one. Noise that is split over k microbatches
    (sigma C / k each, so that it "adds up") adds up to sigma C / sqrt(k) only."""
    data = PrivateUnits(torch.zeros(4 * microbatches, 1))
    _, released = last(step(entries=20_000), data, SeededNoise(7))
    return float(released.std() / (SIGMA * C / EXPECTED))


def test_7_gradients_are_clipped_before_they_are_added():
    assert attack_7_clipping() <= HOLDS


@pytest.mark.parametrize("microbatches", [1, 2, 9])
def test_7_noise_is_added_once_whatever_the_number_of_microbatches(microbatches):
    assert attack_7_noise(microbatches) == pytest.approx(1.0, rel=0.03)


def test_7_undone_a_sum_that_is_clipped_as_a_whole_is_seen(monkeypatch):
    def clip_the_sum(gradients, max_norm, weights):
        found = clip_and_sum(gradients, math.inf, weights)
        norm = math.sqrt(sum(float(value.square().sum()) for value in found.sums.values()))
        scale = min(1.0, max_norm / norm)
        return ClippedSum({n: v * scale for n, v in found.sums.items()}, *found[1:])

    monkeypatch.setattr(mechanisms, "clip_and_sum", clip_the_sum)
    assert attack_7_clipping() > 1.9


def test_7_undone_noise_that_is_split_over_microbatches_is_seen(monkeypatch):
    source, number = SeededNoise(1), itertools.count()

    def with_noise(gradients, max_norm, weights):
        noise = source.gaussian(20_000, key=("microbatch", next(number)))
        found = clip_and_sum({"weight": torch.zeros(4, 20_000)}, max_norm, weights)
        split = torch.from_numpy(noise * SIGMA * max_norm / 9)
        return found._replace(sums={"weight": found.sums["weight"] + split})

    monkeypatch.setattr(mechanisms, "clip_and_sum", with_noise)
    monkeypatch.setattr(DpSgdStep, "_add_noise", lambda *_: None)
    assert attack_7_noise(9) < 0.4


# 8. Empty batches, NaN and infinite gradients


def statistic(kind: type) -> Release:
    mechanism = kind("statistic", 2.0, 0.5)
    return lambda data, session: mechanism.release(
        data, lambda rows, _: np.asarray(rows, dtype=float), session
    )


RELEASES = {"step": step(), "sum": statistic(NoisedSum), "scatter": statistic(NoisedScatter)}


def attack_8(kind: str, value: float) -> bool:
    """One image makes its gradient NaN or infinite. Added to a sum it shows in every coordinate of
    the release; and a run that stops because of it tells as much. (jax_privacy, pitfalls.) The loss
    of that unit is not finite either. Returns whether the attacker sees the unit: a crash,
    something not finite, or too far moved."""
    fewer, more = rows_of([1.0, 0.0, 0.0]), rows_of([1.0, 0.0, 0.0], [value, 1.0, 0.0])
    try:
        return not movement(RELEASES[kind], fewer, more) <= HOLDS
    except Exception:
        return True


POISON = (math.nan, math.inf, -math.inf, 3e38)


@pytest.mark.parametrize("value", POISON)
@pytest.mark.parametrize("kind", RELEASES)
def test_8_a_unit_that_is_not_finite_neither_shows_nor_stops_the_run(kind, value):
    assert not attack_8(kind, value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", RELEASES)
def test_8_undone_a_unit_that_is_not_finite_is_seen(monkeypatch, kind, value):
    def factors(norms, max_norm):
        return (max_norm * (1 - clipping.MARGIN) / norms).clamp(max=1.0)

    def weighted_sum(gradient, factors, dropped):
        return torch.einsum("u...,u->...", gradient.double(), factors)

    def rows(vectors, max_norm):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors * np.minimum(1.0, max_norm / np.maximum(norms, 1e-12))

    monkeypatch.setattr(clipping, "clip_factors", factors)
    monkeypatch.setattr(clipping, "_weighted_sum", weighted_sum)
    monkeypatch.setattr(mechanisms, "clip_rows", rows)
    with np.errstate(invalid="ignore"):
        assert attack_8(kind, value)


def test_8_a_unit_that_is_not_finite_leaves_the_gradients_of_others_as_they_are():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 2))
    rows = torch.randn(4, 4)
    _, proper = per_unit_gradients(module, own_loss, (rows,))
    rows[1, 0] = math.inf
    _, found = per_unit_gradients(module, own_loss, (rows,))
    for name, gradient in proper.items():
        assert torch.equal(found[name][[0, 2, 3]], gradient[[0, 2, 3]])


def attack_8_empty() -> bool:
    """A batch may be empty. If such a step is passed over, or goes without noise, its release says
    that the target was not in it (Opacus issue 161). Returns whether the release has less noise
    than claimed, or none came."""

    class Nobody(SeededNoise):
        def poisson_mask(self, n, rate, *, key):
            return np.zeros(n, bool)

    data = PrivateUnits(torch.ones(5, 20_000))
    try:
        _, released = last(step(entries=20_000), data, Nobody(3))
    except Exception:
        return True
    return released.std() != pytest.approx(SIGMA * C / EXPECTED, rel=0.03)


def test_8_an_empty_batch_is_a_step_like_any_other():
    assert not attack_8_empty()


def test_8_undone_an_empty_batch_without_noise_is_seen(monkeypatch):
    proper = DpSgdStep._add_noise

    def only_to_something(self, total, noise, number):
        if any(bool(value.any()) for value in total.values()):
            proper(self, total, noise, number)

    monkeypatch.setattr(DpSgdStep, "_add_noise", only_to_something)
    assert attack_8_empty()
