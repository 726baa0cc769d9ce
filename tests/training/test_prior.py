"""The prior: what its releases let out, what is fitted, and that it holds at every corner."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dpdm.data import open_dataset
from dpdm.diffusion.dct import DctFrame
from dpdm.diffusion.images import to_model_space
from dpdm.diffusion.pose import POSE_SIZES, measure_pose
from dpdm.diffusion.posed import PosedSampler
from dpdm.privacy import Ledger, PrivateUnits, Session, epsilon
from dpdm.promise import gaussian_noise_multiplier_for
from dpdm.training.prior import design_prior, fit_prior
from dpdm.training.prior import fit as fit_module
from dpdm.training.prior.calibration import calibrated, moments
from dpdm.training.prior.covariance import clean_covariance
from dpdm.training.prior.features import PosedFeatures
from dpdm.training.prior.releases import POSE_NORM, Releases
from dpdm.training.prior.shrinkage import (
    bands_by_axis,
    clean_deviation,
    frequency_bands,
    shrink_counts,
    shrink_means,
    shrink_symmetric,
)
from dpdm.training.prior.statistics import Statistics, collect
from dpdm.training.seeded_noise import SeededNoise


class Recording(SeededNoise):
    """No noise, so that a release is the exact clipped sum."""

    def gaussian(self, shape, *, key):
        return np.zeros(shape)


def session(tmp_path: Path, noise: SeededNoise) -> Session:
    path = tmp_path / f"ledger-{len(list(tmp_path.iterdir()))}.jsonl"
    ledger = Ledger.create(path, dataset="d", unit="image", noise_source="s")
    return Session(ledger, noise)


def fit(images, labels, classes, design, session, seed, augment=0.0, detail="kept", **more):
    _, height, width, channels = images.shape
    units = PrivateUnits(images, labels)
    shape = (channels, height, width)
    return fit_prior(units, shape, classes, design, session, seed, augment, detail, **more)


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
        np.zeros((3, 12)), np.eye(12)[:, :4], np.ones((3, 2, 4)), np.eye(12), 2.0
    )[0],
    "class scatter in 5 directions": lambda r: r.class_scatter(
        np.zeros((3, 12)), np.eye(12)[:, :4], np.ones((3, 2, 4)), np.eye(12)[:, :5], 2.0
    )[0],
    "cluster scatter": lambda r: r.cluster_scatter(
        np.zeros((3, 12)),
        np.eye(12)[:, :4],
        np.ones((3, 2, 4)),
        np.stack([np.eye(12)[:, :7]] * 3),
        np.array([1.0, 0.2, 3.0]),
        2.0,
    )[0],
}
BOUNDS = {
    "cluster scatter": 4.0,
    "means": 2.0,
    "scatter": 4.0,
    "class scatter": 4.0,
    "class scatter in 5 directions": 4.0,
}


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
        chosen = design(1.0)
        chosen = replace(chosen, shares=chosen.shares | {"cluster scatter": 0.2})
        releases = Releases(units, 12, 3, chosen, opened)
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


@pytest.mark.parametrize("own", [0, 8])
def test_the_ledger_holds_what_the_design_announced_and_no_more(tmp_path, digits, own):
    noise = gaussian_noise_multiplier_for(10.0, 1e-4)
    chosen = design_prior(
        public_size=1437,
        classes=10,
        pixels=64,
        noise_multiplier=noise,
        clusters=3,
        cluster_directions=own,
    )
    opened = session(tmp_path, SeededNoise(0))
    fit(digits.private_images, digits.private_labels, 10, chosen, opened, 0)
    spent, announced = Counter(), Counter()
    for _, event, count in opened.ledger.counted_events():
        spent[event] += count
    for event, count in chosen.events():
        announced[event] += count
    assert spent == announced
    assert opened.ledger.epsilon(1e-4) <= 10.0 * 1.001


@pytest.mark.parametrize(
    ("target", "clusters", "size"),
    [(0.2, 1, 900), (1.0, 1, 900), (10.0, 1, 900), (10.0, 4, 900), (10.0, 4, 90_000)],
)
def test_all_releases_together_cost_what_one_gaussian_mechanism_costs(target, clusters, size):
    noise = gaussian_noise_multiplier_for(target, 1e-5)
    chosen = design(noise, clusters=clusters, size=size, pixels=40)
    assert ("cluster scatter" in chosen.shares) == (size == 90_000)
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
@pytest.mark.parametrize(("clusters", "own"), [(1, 0), (4, 0), (4, 20)])
def test_three_hundred_images_at_a_small_epsilon_give_finite_samples(
    tmp_path, target, clusters, own
):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (300, 8, 8, 1), dtype=np.uint8)
    labels = generator.integers(0, 10, 300)
    noise = gaussian_noise_multiplier_for(target, 1e-4)
    for seed in range(5):
        chosen = design_prior(
            public_size=300,
            classes=10,
            pixels=64,
            noise_multiplier=noise,
            clusters=clusters,
            cluster_directions=own,
        )
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
    assert not small.directions
    assert not small.cluster_directions
    assert large.cluster_directions > 16
    assert large.directions == large.dimension


def test_a_class_has_its_own_covariance_in_as_many_directions_as_its_noise_allows():
    between = design_prior(public_size=60_000, classes=10, pixels=784, noise_multiplier=16.0)
    assert 4 <= between.directions < between.dimension
    # The noise of a (R, R) scatter of a class, in Frobenius norm, over its clip norm squared.
    noise = between.noise_of("class scatter") / 6000 * between.directions / math.sqrt(2.0)
    assert 0.05 < noise < 0.2


def covariances(found: Statistics) -> np.ndarray:
    """(Y, E, E), of each class."""
    return np.einsum("yer,yr,yfr->yef", found.directions, found.variances, found.directions)


def test_beyond_its_own_directions_a_class_has_the_pooled_covariance():
    generator = np.random.default_rng(0)
    # The first axis varies most, and in class 1 twice as much; the last ones only in class 1.
    spread = np.array([3.0, 2.0, 1.0, 1.0, 0.1, 0.1])
    rows = generator.normal(size=(4000, 6)) * spread
    labels = np.arange(4000) % 2
    rows[labels == 1, 0] *= 2.0
    rows[labels == 1, 4:] *= 4.0
    chosen = replace(
        design_prior(public_size=4000, classes=2, pixels=6, noise_multiplier=0.0, clusters=1),
        directions=2,
    )
    releases = Releases(PrivateUnits(rows, labels), 6, 2, chosen, Session(None, SeededNoise(0)))
    first, second = covariances(collect(releases, chosen, np.zeros(6, np.int64), generator))
    np.testing.assert_allclose(np.diag(first)[:2], spread[:2] ** 2, rtol=0.1)
    np.testing.assert_allclose(second[0, 0], 36.0, rtol=0.1)
    np.testing.assert_allclose(first[2:, 2:], second[2:, 2:], atol=2e-3)
    np.testing.assert_allclose(np.diag(first)[4:], 0.5 * (0.01 + 0.16), rtol=0.2)


def two_clusters(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two classes, each of two clusters apart on the first axis: the left ones vary along
    the second axis, the right ones along a line between the second and third."""
    generator = np.random.default_rng(0)
    labels, side = np.arange(count) % 2, np.arange(count) // 2 % 2
    rows = generator.normal(size=(count, 6)) * np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.1])
    rows[:, 0] += np.where(side, 4.0, -4.0)
    along = generator.normal(size=count)
    rows[:, 1] += np.where(side, 1.0, 2.0) * along
    rows[:, 2] += np.where(side, along, 0.0)
    return rows, labels


def test_a_cluster_has_a_covariance_of_its_own_in_its_classs_leading_directions():
    rows, labels = two_clusters(8000)
    chosen = design_prior(
        public_size=8000,
        classes=2,
        pixels=6,
        noise_multiplier=0.0,
        clusters=2,
        cluster_directions=3,
    )
    releases = Releases(PrivateUnits(rows, labels), 6, 2, chosen, Session(None, SeededNoise(0)))
    found = collect(releases, chosen, np.zeros(6, np.int64), np.random.default_rng(1))
    assert found.roots.shape == (2, 2, 3, 3)
    for y in range(2):
        frame = found.directions[y, :, :3]
        for k in range(2):
            right = found.centres[y, k, 0] > 0
            own = rows[(labels == y) & ((rows[:, 0] > 0) == right)]
            true = frame.T @ np.cov(own.T) @ frame
            root = found.roots[y, k]
            assert np.linalg.norm(root @ root.T - true) < 0.25 * np.linalg.norm(true)
            shared = np.diag(found.variances[y, :3])
            assert np.linalg.norm(shared - true) > 0.4 * np.linalg.norm(true)
            lengths = np.linalg.norm(root, axis=0)  # from the largest down: detail is the last ones
            assert (np.diff(lengths) <= 1e-9).all()


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


def test_axes_of_colour_have_bands_of_their_own():
    axes = np.array([0, 1, 0, 0, 2, 0, 1, 0])
    bands = bands_by_axis(axes, 2)
    for axis in range(3):
        inside = axes == axis
        own = frequency_bands(int(inside.sum()), 2)
        np.testing.assert_array_equal(bands[inside] - bands[inside].min(), own)
    assert sorted(set(bands)) == list(range(bands.max() + 1))
    np.testing.assert_array_equal(bands_by_axis(np.zeros(40, np.int64)), frequency_bands(40))


def photographs(generator: np.random.Generator, count: int, side: int) -> tuple[np.ndarray, ...]:
    """Images (N, H, W, 3) uint8 whose variances fall with the square of frequency, those of colours
    a tenth of brightness, and these variances in the order of a frame."""
    frame = DctFrame((3, side, side), 60, dtype=torch.float64)
    frequencies = np.maximum(frame.frequencies, 1 / side)
    variances = 0.01 * frequencies**-2.0 * np.where(frame.axes > 0, 0.1, 1.0)
    z = torch.from_numpy(generator.normal(size=(count, frame.size)) * np.sqrt(variances))
    return ((frame.to_images(z) + 1) * 127.5).clamp(0, 255).permute(
        0, 2, 3, 1
    ).byte().numpy(), variances


@pytest.mark.parametrize("texture", [False, True])
def test_beyond_the_modelled_frequencies_each_axis_of_colour_falls_on(tmp_path, texture):
    images, variances = photographs(np.random.default_rng(0), 3000, 16)
    chosen = design_prior(
        public_size=3000, classes=1, pixels=768, noise_multiplier=0.3, dimension=60, clusters=1,
        texture=texture,
    )  # fmt: skip
    found = fit(images, None, 0, chosen, session(tmp_path, SeededNoise(0)), 0)
    rest = (found if found.sampler is None else found.sampler).rest.numpy().reshape(-1)
    true = variances[60:]
    assert rest.sum() == pytest.approx(true.sum(), rel=0.15)
    axes = found.frame.axes[60:] if found.sampler is None else found.sampler.frame.axes[60:]
    for axis in range(3):
        assert rest[axes == axis].sum() == pytest.approx(true[axes == axis].sum(), rel=0.35)
    assert np.abs(np.log(rest / true)).mean() < 0.35
    white = np.full_like(true, true.mean())
    assert np.abs(np.log(rest / true)).mean() < 0.5 * np.abs(np.log(white / true)).mean()


def test_strong_signal_is_kept():
    factors = np.random.default_rng(0).normal(size=(40, 3))
    covariance = factors @ factors.T + 0.1 * np.eye(40)
    cleaned = clean_covariance(covariance, 1e-3, 1e-4, np.zeros(40, np.int64))
    np.testing.assert_allclose(cleaned, covariance, atol=0.02)
    difference = factors @ np.diag([1.0, -1.0, 0.5]) @ factors.T
    kept = clean_deviation(difference, 1e-3, np.linalg.eigh(covariance)[1][:, ::-1])
    np.testing.assert_allclose(kept, difference, atol=0.02)


def symmetric_noise(generator: np.random.Generator, size: int, deviation: float) -> np.ndarray:
    normal = generator.normal(size=(size, size)) * deviation
    return np.triu(normal, 1) + np.triu(normal, 1).T + math.sqrt(2) * np.diag(np.diag(normal))


def test_a_difference_of_pure_noise_is_shrunk_away():
    noise = symmetric_noise(np.random.default_rng(0), 60, 1.0)
    kept = clean_deviation(noise, 1.0, np.eye(60))
    assert np.linalg.norm(kept) < 0.4 * np.linalg.norm(noise)


@pytest.mark.parametrize("resolution", [1.0, 10.0, 20.0, 39.0, 41.0, 100.0, 200.0])
def test_the_less_a_covariance_can_be_resolved_the_less_is_spent_on_it(resolution):
    fine = design(300 / resolution, clusters=1, pixels=784)
    coarse = design(360 / resolution, clusters=1, pixels=784)
    few, own = resolution < 40, resolution > 150
    assert sum(fine.shares.values()) == pytest.approx(1.0)
    assert ("class scatter" in fine.shares) == own
    if few:
        assert coarse.shares["scatter"] < fine.shares["scatter"] < 0.5
        assert coarse.shares["means"] > fine.shares["means"] > 0.45
    elif not own:
        assert fine.shares == pytest.approx({"moments": 0.05, "means": 0.45, "scatter": 0.5})


# Poses, texture, augmentation

KINDS = ("none", "brightness", "shift", "affine")


def ovals(count: int, classes: int, side: tuple[int, int] = (12, 10), channels: int = 1):
    """Filled ovals (uint8): classes differ in width, images in place, size and brightness."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % max(classes, 1)
    y, x = (np.arange(n)[None] - n / 2 + generator.normal(0, 0.5, (count, 1)) for n in side)
    radius = 1.5 + labels[:, None, None] % 4 * 0.7 + generator.uniform(0, 0.5, (count, 1, 1))
    inside = (x[:, None] / radius) ** 2 + (y[:, :, None] / 3.5) ** 2 < 1
    level = generator.integers(90, 255, (count, 1, 1, channels))
    images = (inside[..., None] * level).astype(np.uint8)
    return images, (labels if classes else None)


def posed(kind: str, noise: float, classes: int = 4, size: int = 900, pixels: int = 120, **more):
    return design_prior(
        public_size=size,
        classes=max(classes, 1),
        pixels=pixels,
        noise_multiplier=noise,
        pose=POSE_SIZES[kind],
        **more,
    )


@pytest.mark.parametrize("kind", KINDS[1:])
def test_one_more_image_moves_the_poses_by_at_most_their_sensitivity(tmp_path, kind):
    size = POSE_SIZES[kind]
    for extreme in (np.ones(size), -np.ones(size), np.full(size, 1e9), np.full(size, np.nan)):
        rows = np.random.default_rng(0).uniform(-1, 1, (20, size)).astype(np.float32)
        rows[-1] = extreme
        labels = np.arange(20) % 3
        released = []
        for count in (19, 20):
            units = PrivateUnits(rows[:count], labels[:count])
            opened = session(tmp_path, Recording(0))
            chosen = posed(kind, 1.0, classes=3)
            released.append(Releases(units, 120, 3, chosen, opened).poses()[0])
        assert np.linalg.norm(released[1] - released[0]) <= POSE_NORM + 1e-9


@pytest.mark.parametrize("outlier", [0.1, 1.0, 1e9, np.inf])
def test_one_more_image_moves_the_texture_by_at_most_its_sensitivity(tmp_path, outlier):
    rows = np.random.default_rng(0).uniform(0, 1, (20, 12 + 4))
    rows[-1] = outlier
    chosen = posed("none", 1.0, classes=3, dimension=12, texture=True)
    released = []
    for count in (19, 20):
        units = PrivateUnits(rows[:count], np.arange(count) % 3)
        opened = session(tmp_path, Recording(0))
        released.append(Releases(units, 120, 3, chosen, opened).texture(0.7))
    assert np.linalg.norm(released[1] - released[0]) <= 2 * 0.7 + 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_an_images_features_are_the_same_whatever_images_follow(kind):
    images, labels = ovals(1500, 4)
    poses = np.full((4, POSE_SIZES[kind]), 0.1)
    features = PosedFeatures(DctFrame((1, 12, 10), 30), poses, np.full(POSE_SIZES[kind], 0.2))
    everything = features(images, labels)
    for count in (1, 7, 1024, 1025, 1499):
        np.testing.assert_array_equal(features(images[:count], labels[:count]), everything[:count])


@pytest.mark.parametrize("size", [(64, 64, 3), (48, 48, 3), (100, 100, 1), (28, 28, 1)])
@pytest.mark.parametrize("kind", ["none", "affine"])
def test_an_images_features_are_the_same_whatever_images_come_before(size, kind):
    """Of more than one chunk, by one thread and by three."""
    height, width, channels = size
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (2**22 // math.prod(size) + 40, *size), dtype=np.uint8)
    images = (images * generator.random((len(images), 1, 1, 1))).astype(np.uint8)
    frame, poses = DctFrame((channels, height, width), 60), np.zeros((1, POSE_SIZES[kind]))
    features = PosedFeatures(frame, poses, np.ones(POSE_SIZES[kind]))
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            alone = features(images[1:], None)
            np.testing.assert_array_equal(features(images, None)[1:], alone)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("noise", "modelled"), [(1.0, 6), (2.0, 0)])
def test_poses_of_too_few_images_are_not_modelled(noise, modelled):
    """300 images a class, over the noise multiplier: 300 and 150, less one image."""
    chosen = posed("affine", noise, classes=2, size=599)
    assert chosen.pose == modelled
    assert ("poses" in chosen.shares) == (modelled > 0)
    assert posed("brightness", noise, classes=2, size=599).pose == 1


def test_the_class_of_an_image_decides_to_which_pose_it_is_brought():
    images = np.repeat(ovals(1, 1)[0], 2, axis=0)
    poses = np.zeros((2, 6))
    poses[1, 1] = 0.3
    features = PosedFeatures(DctFrame((1, 12, 10), 30), poses, np.ones(6))
    first, second = features(images, np.array([0, 1]))
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texture", [False, True])
def test_with_poses_and_texture_the_ledger_holds_what_was_announced(tmp_path, kind, texture):
    images, labels = ovals(900, 4)
    noise = gaussian_noise_multiplier_for(1.0, 1e-4)
    chosen = posed(kind, noise, dimension=30, texture=texture)
    assert sum(chosen.shares.values()) == pytest.approx(1.0)
    opened = session(tmp_path, SeededNoise(0))
    fit(images, labels, 4, chosen, opened, 0, augment=0.5)
    spent = Counter()
    for _, event, count in opened.ledger.counted_events():
        spent[event] += count
    planned = Counter()
    for event, count in chosen.events():
        planned[event] += count
    assert spent == planned
    assert opened.ledger.epsilon(1e-4) <= 1.001


@pytest.mark.parametrize("kind", KINDS[1:])
def test_samples_have_the_places_and_the_widths_of_their_classes(kind):
    images, labels = ovals(4000, 4)
    chosen = posed(kind, 0.0, size=4000, clusters=4, dimension=60)
    opened = Session(None, SeededNoise(0))
    drawn = fit(images, labels, 4, chosen, opened, 0).sample(torch.from_numpy(labels))
    real, made = measure_pose(to_model_space(images), 6), measure_pose(drawn, 6)
    widths = []
    for label in range(4):
        here = torch.from_numpy(labels == label)
        for statistic in (torch.mean, torch.std):
            found, wanted = (statistic(pose[here][:, 1:3], dim=0) for pose in (made, real))
            torch.testing.assert_close(found, wanted, atol=0.04, rtol=0)
        widths.append(float(made[here, 4].mean()))
    assert widths == sorted(widths)


@pytest.mark.parametrize(
    ("texture", "detail", "amounts"),
    [
        (False, "kept", [1.0, 1.0]),
        (True, "kept", [0.0, 3.0**0.5]),
        (True, "reduced", [0.0, 1.0]),
    ],
)
def test_only_with_texture_do_samples_differ_in_their_detail(texture, detail, amounts):
    images, labels = ovals(900, 4)
    chosen = posed("brightness", 0.0, dimension=30, texture=texture)
    mixture = fit(images, labels, 4, chosen, Session(None, SeededNoise(0)), 0, detail=detail)
    assert mixture.sampler.detail.tolist() == pytest.approx(amounts)


def test_what_is_beyond_the_kept_directions_stays_with_its_coefficients(monkeypatch):
    monkeypatch.setattr(fit_module, "LARGEST_RANK", 5)
    images, labels = ovals(900, 2)
    chosen = posed("none", 0.0, classes=2, size=900, dimension=30, texture=True)
    chosen = replace(chosen, cluster_directions=0)
    units, session = PrivateUnits(images, labels), Session(None, SeededNoise(0))
    fitted = fit_module.release_all(units, (1, 12, 10), 2, chosen, session, 0)
    found, sampler = fitted.statistics, fitted.sampler(0.0, "kept", True)
    whole = np.einsum("yer,yr->ye", found.directions**2, found.variances)
    kept = (sampler.basis**2 * sampler.variances[:, None]).sum(2) + sampler.floor
    torch.testing.assert_close(kept.double(), torch.from_numpy(whole), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["none", "brightness"])
def test_samples_have_the_moments_that_were_released(kind):
    """Bright shapes on black: many pixels of a sample are cut off at black."""
    images, labels = ovals(3000, 2)
    chosen = posed(kind, 0.0, classes=2, size=3000, clusters=2, dimension=40, texture=True)
    session = Session(None, SeededNoise(0))
    fitted = fit_module.release_all(
        PrivateUnits(images, labels), (1, 12, 10), 2, chosen, session, 0
    )
    sampler, found = fitted.sampler(0.0, "reduced", True), fitted.statistics
    features = PosedFeatures(fitted.frame, fitted.poses, fitted.spread)
    before = sampler.to_tensors()
    moved = calibrated(sampler, features, found, 0)
    assert torch.equal(moved.detail, before["detail"])
    moved.detail = torch.ones(2)
    lacks = []
    for one in (PosedSampler((1, 12, 10), before | {"detail": torch.ones(2)}), moved):
        means, scatter = moments(one, features, found, torch.Generator().manual_seed(5))
        lacks.append((np.abs(means - found.means).max(), np.trace(found.within - scatter)))
    assert lacks[1][0] < 0.5 * lacks[0][0]
    assert abs(lacks[1][1]) < 0.5 * abs(lacks[0][1])


@pytest.mark.parametrize(("kind", "clusters"), [("none", 1), ("shift", 2), ("affine", 2)])
def test_with_poses_or_without_clusters_samples_are_as_fitted(kind, clusters):
    images, labels = ovals(900, 2)
    chosen = posed(kind, 0.0, classes=2, size=900, clusters=clusters, dimension=30, texture=True)
    about = PrivateUnits(images, labels), (1, 12, 10), 2, chosen
    plain, asked = (
        fit_prior(*about, Session(None, SeededNoise(0)), 0, calibrate=calibrate)
        for calibrate in (False, True)
    )
    for name, value in plain.to_tensors().items():
        torch.testing.assert_close(asked.to_tensors()[name], value, rtol=0, atol=0)


def test_the_plain_mixture_has_the_mean_and_spread_of_the_samplers_draws():
    images, labels = ovals(2000, 2)
    chosen = posed("affine", 0.0, classes=2, size=2000, clusters=2, dimension=40)
    mixture = fit(images, labels, 2, chosen, Session(None, SeededNoise(0)), 0, augment=0.5)
    wanted = torch.ones(6000, dtype=torch.int64)
    drawn = mixture.sample(wanted, torch.Generator().manual_seed(1)).flatten(1)
    plain = mixture.broadened(0.0).sample(wanted, torch.Generator().manual_seed(2)).flatten(1)
    torch.testing.assert_close(plain.mean(0), drawn.mean(0), atol=0.06, rtol=0)
    assert float(plain.var(0).sum()) == pytest.approx(float(drawn.var(0).sum()), rel=0.1)
    x = drawn[:200].reshape(-1, 1, 12, 10)
    noisy = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    mean = mixture.posterior_mean(noisy, torch.full((200,), 0.5), wanted[:200])
    assert float((mean - x).square().mean()) < 0.25 * float((noisy - x).square().mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("count", "classes", "side", "channels"),
    [
        (300, 0, (12, 10), 1),
        (300, 1, (9, 16), 3),
        (300, 2, (16, 9), 1),
        (600, 200, (12, 12), 1),
        (400, 10, (8, 8), 4),
        (64, 4, (5, 5), 3),
    ],
)
@pytest.mark.parametrize("clusters", [None, 2])
def test_every_corner_gives_images(tmp_path, kind, count, classes, side, channels, clusters):
    images, labels = ovals(count, classes, side, channels)
    noise = gaussian_noise_multiplier_for(1.0, 1e-4)
    pixels = channels * side[0] * side[1]
    chosen = posed(kind, noise, classes, count, pixels, texture=True, clusters=clusters)
    opened = session(tmp_path, SeededNoise(0))
    mixture = fit(images, labels, classes, chosen, opened, 0, augment=1.0, calibrate=True)
    drawn = mixture.sample(torch.arange(20) % max(classes, 1), torch.Generator().manual_seed(0))
    assert drawn.shape == (20, channels, *side)
    assert bool(drawn.isfinite().all())
    assert float(drawn.abs().max()) <= 1.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0, 255])
def test_images_without_any_shape_give_images(tmp_path, kind, level):
    images = np.full((300, 6, 6, 1), level, np.uint8)
    images[0, 2, 3] = 255
    chosen = posed(kind, 1.0, 2, 300, 36, texture=True, clusters=2)
    opened = session(tmp_path, SeededNoise(0))
    mixture = fit(images, np.arange(300) % 2, 2, chosen, opened, 0, augment=1.0, calibrate=True)
    assert bool(mixture.sample(torch.tensor([0, 1, 0])).isfinite().all())


def test_a_rare_class_takes_its_look_from_the_pool(tmp_path):
    images, labels = ovals(2000, 2)
    labels = np.where(np.arange(2000) < 5, 2, labels)
    chosen = posed("affine", gaussian_noise_multiplier_for(1.0, 1e-5), 3, 2000)
    mixture = fit(images, labels, 3, chosen, session(tmp_path, SeededNoise(0)), 0)
    rare = mixture.sample(torch.full((200,), 2), torch.Generator().manual_seed(0))
    pool = torch.from_numpy(images).float().mean() / 127.5 - 1
    assert float(rare.mean()) == pytest.approx(float(pool), abs=0.25)
