"""The prior: what its releases let out, what is fitted, and that it holds at every corner."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dpdm.data import open_dataset
from dpdm.privacy import Ledger, PrivateUnits, Session, epsilon
from dpdm.promise import gaussian_noise_multiplier_for
from dpdm.training.prior import design_prior, fit_prior
from dpdm.training.prior.releases import Releases
from dpdm.training.prior.shrinkage import (
    clean_covariance,
    frequency_bands,
    shrink_counts,
    shrink_means,
    shrink_symmetric,
)
from dpdm.training.seeded_noise import SeededNoise


class Recording(SeededNoise):
    """No noise, so that a release is the exact clipped sum."""

    def gaussian(self, shape, *, key):
        return np.zeros(shape)


def session(tmp_path: Path, noise: SeededNoise) -> Session:
    path = tmp_path / f"ledger-{len(list(tmp_path.iterdir()))}.jsonl"
    ledger = Ledger.create(path, dataset="d", unit="image", noise_source="s")
    return Session(ledger, noise)


def fit(images, labels, classes, design, session, seed):
    _, height, width, channels = images.shape
    units = PrivateUnits(images, labels)
    return fit_prior(units, (channels, height, width), classes, design, session, seed)


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits")


def design(noise: float, classes: int = 3, clusters: int = 2, size: int = 900, pixels: int = 12):
    return design_prior(
        public_size=size, classes=classes, pixels=pixels, noise_multiplier=noise, clusters=clusters
    )


RELEASES = {
    "moments": lambda r: np.concatenate([np.atleast_1d(part).ravel() for part in r.moments()[:4]]),
    "means": lambda r: r.class_sums(np.zeros(12), 2.0)[0],
    "scatter": lambda r: r.scatter(np.zeros((3, 12)), 2.0)[0],
    "clusters": lambda r: r.cluster_step(
        np.zeros((3, 12)), np.eye(12)[:, :4], np.ones((3, 2, 4)), 2.0, 3
    ),
    "class scatter": lambda r: r.class_scatter(
        np.zeros((3, 12)), np.eye(12)[:, :4], np.ones((3, 2, 4)), 2.0
    )[0],
}
BOUNDS = {"means": 2.0, "scatter": 4.0, "class scatter": 4.0}


@pytest.mark.parametrize("kind", sorted(RELEASES))
@pytest.mark.parametrize("outlier", [1.0, 40.0])
def test_one_more_image_moves_a_statistic_by_at_most_its_sensitivity(tmp_path, kind, outlier):
    generator = np.random.default_rng(0)
    coefficients = generator.normal(size=(20, 12))
    # An image in [-1, 1] has norm at most sqrt(12); clipping has to hold for anything.
    coefficients[-1] = outlier * generator.normal(size=12)
    if kind == "moments":
        coefficients[-1] *= math.sqrt(12) / np.linalg.norm(coefficients[-1])
    labels = generator.integers(0, 3, 20)
    released = []
    for size in (19, 20):
        opened = session(tmp_path, Recording(0))
        units = PrivateUnits(coefficients[:size], labels[:size])
        releases = Releases(units, 12, 3, design(1.0), opened)
        found = RELEASES[kind](releases)
        if kind == "clusters":  # counts carry max_norm/2 each: undo the scale to compare
            found = np.concatenate([found[0][..., None] * 1.0, found[1]], axis=-1)
        released.append(np.asarray(found))
    change = released[1] - released[0]
    if kind == "moments":  # squares and totals are released as fractions of P and sqrt P
        scale = np.concatenate([np.ones(3), np.full(2, 12.0), np.full(12, math.sqrt(12))])
        assert np.linalg.norm(change / scale) <= math.sqrt(3) + 1e-9
    elif kind == "clusters":
        assert np.linalg.norm(change) <= 2.0 * math.sqrt(1.25) + 1e-9
    else:
        assert np.linalg.norm(change) <= BOUNDS[kind] + 1e-9


def test_the_ledger_holds_what_the_design_announced_and_no_more(tmp_path, digits):
    noise = gaussian_noise_multiplier_for(10.0, 1e-4)
    chosen = design_prior(
        public_size=1437, classes=10, pixels=64, noise_multiplier=noise, clusters=3
    )
    opened = session(tmp_path, SeededNoise(0))
    fit(digits.private_images, digits.private_labels, 10, chosen, opened, 0)
    spent = sorted((event, count) for _, event, count in opened.ledger.counted_events())
    merged: dict = {}
    for event, count in chosen.events():
        merged[event] = merged.get(event, 0) + count
    assert spent == sorted(merged.items())
    assert opened.ledger.epsilon(1e-4) <= 10.0 * 1.001


@pytest.mark.parametrize(("target", "clusters"), [(0.2, 1), (1.0, 1), (10.0, 1), (10.0, 4)])
def test_all_releases_together_cost_what_one_gaussian_mechanism_costs(target, clusters):
    noise = gaussian_noise_multiplier_for(target, 1e-5)
    chosen = design(noise, clusters=clusters)
    assert sum(chosen.shares.values()) == pytest.approx(1.0)
    assert epsilon(chosen.events(), 1e-5) == pytest.approx(target, rel=0.01)


def test_without_noise_the_mixture_has_the_mean_and_covariance_of_the_images(digits):
    chosen = design_prior(public_size=1437, classes=10, pixels=64, noise_multiplier=0.0, clusters=1)
    mixture = fit(
        digits.private_images, digits.private_labels, 10, chosen, Session(None, SeededNoise(0)), 0
    )
    labels = torch.full((20_000,), 3)
    drawn = mixture.sample(labels, torch.Generator().manual_seed(0)).flatten(1).numpy()
    real = digits.private_images[digits.private_labels == 3].reshape(-1, 64) / 127.5 - 1.0
    np.testing.assert_allclose(drawn.mean(0), real.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(real.T), atol=0.06)


@pytest.mark.parametrize("target", [0.1, 1.0])
@pytest.mark.parametrize("clusters", [1, 4])
def test_three_hundred_images_at_a_small_epsilon_give_finite_samples(tmp_path, target, clusters):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (300, 8, 8, 1), dtype=np.uint8)
    labels = generator.integers(0, 10, 300)
    noise = gaussian_noise_multiplier_for(target, 1e-4)
    for seed in range(5):
        chosen = design(noise, classes=10, clusters=clusters, size=300, pixels=64)
        mixture = fit(images, labels, 10, chosen, session(tmp_path, SeededNoise(seed)), seed)
        drawn = mixture.sample(torch.arange(100) % 10, torch.Generator().manual_seed(0))
        assert bool(drawn.isfinite().all())
        assert float(mixture.weights.min()) > 0
        assert float(mixture.variances.min()) > 0
        x = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        mean = mixture.posterior_mean(x, torch.full((10,), 0.5), torch.arange(10))
        assert bool(mean.isfinite().all())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("classes", [0, 1, 2, 50])
def test_any_number_of_classes_and_one_to_four_channels(tmp_path, channels, classes):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (200, 6, 8, channels), dtype=np.uint8)
    labels = generator.integers(0, classes, 200) if classes else None
    chosen = design(1.0, max(classes, 1), 1, 200, 48 * channels)
    opened = session(tmp_path, SeededNoise(0))
    mixture = fit(images, labels, classes, chosen, opened, 0)
    drawn = mixture.sample(torch.zeros(3, dtype=torch.int64))
    assert drawn.shape == (3, channels, 6, 8)
    assert bool(drawn.isfinite().all())


def test_an_empty_class_takes_after_the_pool(tmp_path):
    images = np.full((200, 6, 6, 1), 200, np.uint8)
    labels = np.zeros(200, np.int64)
    chosen = design(1.0, 2, 1, 200, 36)
    mixture = fit(images, labels, 2, chosen, session(tmp_path, SeededNoise(0)), 0)
    drawn = mixture.sample(torch.ones(50, dtype=torch.int64))
    assert bool(drawn.isfinite().all())


def test_a_class_is_told_from_another_at_a_usual_budget(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 40, (2000, 6, 6, 1), dtype=np.uint8)
    labels = np.arange(2000) % 2
    images[labels == 1, :, 3:] += 180
    noise = gaussian_noise_multiplier_for(1.0, 1e-5)
    chosen = design_prior(public_size=2000, classes=2, pixels=36, noise_multiplier=noise)
    mixture = fit(images, labels, 2, chosen, session(tmp_path, SeededNoise(0)), 0)
    drawn = mixture.sample(torch.tensor([0, 1]).repeat(200), torch.Generator().manual_seed(0))
    right = drawn[..., 3:].mean(dim=(1, 2, 3))
    assert float(right[1::2].min()) > float(right[0::2].max())


def test_the_design_resolves_more_where_there_is_more_data():
    small = design_prior(public_size=1000, classes=10, pixels=784, noise_multiplier=10.0)
    large = design_prior(public_size=60_000, classes=10, pixels=784, noise_multiplier=0.5)
    assert small.dimension < large.dimension
    assert small.clusters == 1
    assert large.clusters == 16
    assert not small.class_covariance
    assert large.class_covariance


def test_pure_noise_is_shrunk_away():
    generator = np.random.default_rng(0)
    bands = frequency_bands(40)
    means = generator.normal(size=(10, 40))
    shrunk = shrink_means(means, np.ones(10), np.full(10, 100.0), bands)
    assert (shrunk**2).mean() < 0.2
    matrix = generator.normal(size=(40, 40))
    matrix = (matrix + matrix.T) / math.sqrt(2)
    kept = shrink_symmetric(matrix, 1.0, bands)
    off_diagonal = ~np.eye(40, dtype=bool)
    assert (kept[off_diagonal] ** 2).mean() < 0.2
    assert shrink_counts(100 + 30 * generator.normal(size=50), 30.0).std() < 10


def test_strong_signal_is_kept():
    bands = frequency_bands(40)
    factors = np.random.default_rng(0).normal(size=(40, 3))
    covariance = factors @ factors.T + 0.1 * np.eye(40)
    cleaned = clean_covariance(covariance, 1e-3, bands, 1e-4)
    np.testing.assert_allclose(cleaned, covariance, atol=0.02)


def test_a_cleaned_covariance_is_positive_definite_at_any_noise():
    generator = np.random.default_rng(0)
    for scale in (0.1, 1.0, 100.0):
        noise = generator.normal(size=(30, 30)) * scale
        cleaned = clean_covariance(noise + noise.T, scale * math.sqrt(2), frequency_bands(30), 1e-4)
        assert np.linalg.eigvalsh(cleaned).min() > 0
