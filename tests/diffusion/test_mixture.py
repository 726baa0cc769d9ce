"""The prior's posterior mean, density and samples, against dense algebra, integrals and draws."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from scipy import stats
from scipy.fft import dctn
from scipy.special import logsumexp
from torch import Tensor

from dpdm.diffusion.mixture import Mixture
from dpdm.errors import DpdmError, RequestError

Make = Callable[..., Mixture]

SETTINGS = [
    {},
    {"dimension": 12, "rank": 3},
    {"dimension": 12, "rank": 12},
    {"rank": 0},
    {"rank": 7},
    {"components": 1},
    {"classes": 1},
    {"image_shape": (2, 3, 2), "dimension": 5, "rank": 2},
    {"image_shape": (3, 2, 4), "dimension": 24, "rank": 5, "components": 2},
    {"image_shape": (4, 1, 2), "dimension": 1, "rank": 1},
]


def transform(image_shape: tuple[int, int, int], order: Tensor) -> np.ndarray:
    """The matrix from flattened images to the frame's coefficients, from scipy's DCT of a basis."""
    size = int(np.prod(image_shape))
    planes = dctn(np.eye(size).reshape(size, *image_shape), axes=(1, 2, 3), norm="ortho")
    return planes.reshape(size, size).T[order.numpy()]


def dense(mixture: Mixture, y: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class y as weights, means (K, P) and covariance (P, P) in pixels."""
    p, d = mixture.frame.size, mixture.dimension
    basis, variances = mixture.basis[y].numpy(), mixture.variances[y].numpy()
    covariance = np.diag(np.concatenate([np.zeros(d), mixture.rest.numpy()]))
    floor = float(mixture.floor[y])
    covariance[:d, :d] = basis @ np.diag(variances - floor) @ basis.T + floor * np.eye(d)
    means = np.zeros((mixture.components, p))
    means[:, :d] = mixture.means[y].numpy()
    t = transform(mixture.image_shape, mixture.frame.order)
    return mixture.weights[y].numpy(), means @ t, t.T @ covariance @ t


def reference(mixture: Mixture, x: Tensor, sigma: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior means and log densities, one image and one component at a time."""
    estimates, densities = [], []
    for image, level, label in zip(x.double(), sigma.double(), labels, strict=True):
        flat = image.flatten().numpy()
        logs, means = [], []
        for y in range(mixture.classes) if label < 0 else [int(label)]:
            prior = float(mixture.class_weights[y]) if label < 0 else 1.0
            weights, centres, covariance = dense(mixture, y)
            noisy = covariance + float(level) ** 2 * np.eye(len(flat))
            for weight, centre in zip(weights, centres, strict=True):
                if weight * prior > 0:
                    density = stats.multivariate_normal.logpdf(flat, centre, noisy)
                    logs.append(np.log(weight * prior) + density)
                    means.append(centre + covariance @ np.linalg.solve(noisy, flat - centre))
        shares = np.exp(np.array(logs) - logsumexp(logs))
        estimates.append((shares[:, None] * np.stack(means)).sum(0).reshape(image.shape))
        densities.append(logsumexp(logs))
    return torch.from_numpy(np.stack(estimates)), torch.tensor(np.array(densities))


def noisy_images(mixture: Mixture, count: int = 12, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % (mixture.classes + 1) - 1
    sigma = torch.logspace(-1.5, 1.0, count, dtype=torch.float64)
    x = mixture.sample(labels, g)
    noise = torch.randn(x.shape, generator=g, dtype=torch.float64)
    return x + sigma.reshape(-1, 1, 1, 1).to(x.dtype) * noise.to(x.dtype), sigma.to(x.dtype), labels


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_posterior_mean_and_density_match_dense_linear_algebra(
    make_mixture: Make, setting: dict[str, object]
) -> None:
    mixture = make_mixture(**setting)
    x, sigma, labels = noisy_images(mixture)
    estimates, densities = reference(mixture, x, sigma, labels)
    torch.testing.assert_close(mixture.posterior_mean(x, sigma, labels), estimates)
    torch.testing.assert_close(mixture.log_density(x, sigma, labels), densities)


def test_posterior_mean_matches_integration_over_a_line(make_mixture: Make) -> None:
    """One pixel: the mixture's density is written out and integrated on a grid."""
    mixture = make_mixture((1, 1, 1), dimension=1, rank=1, classes=1, components=3)
    grid = np.linspace(-8.0, 8.0, 40_001)
    centres, weights = mixture.means[0, :, 0].numpy(), mixture.weights[0].numpy()
    std = float(mixture.variances[0, 0].sqrt())
    prior = (weights * stats.norm.pdf(grid[:, None], centres, std)).sum(1)
    for x in (-2.0, 0.1, 1.5):
        for sigma in (0.05, 0.7, 5.0):
            posterior = prior * stats.norm.pdf(x, grid, sigma)
            expected = np.trapezoid(posterior * grid, grid) / np.trapezoid(posterior, grid)
            image = torch.tensor(x, dtype=torch.float64).reshape(1, 1, 1, 1)
            ours = mixture.posterior_mean(image, torch.tensor([sigma], dtype=torch.float64))
            assert float(ours) == pytest.approx(expected, abs=1e-6)


def test_posterior_mean_matches_integration_over_a_plane(make_mixture: Make) -> None:
    """Two pixels, correlated, labelled and not; the density on a grid comes from scipy."""
    mixture = make_mixture((1, 1, 2), dimension=2, rank=1, classes=2, components=2)
    axis = np.linspace(-6.0, 6.0, 481)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    x = np.array([0.4, -0.9])
    for label in (-1, 0, 1):
        prior = np.zeros(grid.shape[:2])
        for y in (0, 1) if label < 0 else (label,):
            share = float(mixture.class_weights[y]) if label < 0 else 1.0
            weights, centres, covariance = dense(mixture, y)
            for weight, centre in zip(weights, centres, strict=True):
                law = stats.multivariate_normal(centre, covariance)
                prior += share * weight * law.pdf(grid)
        for sigma in (0.3, 2.0):
            posterior = prior * np.exp(-((grid - x) ** 2).sum(-1) / (2 * sigma**2))
            expected = (posterior[..., None] * grid).sum((0, 1)) / posterior.sum()
            ours = mixture.posterior_mean(
                torch.from_numpy(x).reshape(1, 1, 1, 2),
                torch.tensor([sigma], dtype=torch.float64),
                torch.tensor([label]),
            )
            np.testing.assert_allclose(ours.flatten().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("label", [-1, 1])
def test_posterior_mean_matches_importance_weighted_samples(make_mixture: Make, label: int) -> None:
    mixture = make_mixture((1, 2, 3), dimension=4, rank=2)
    x = torch.full((1, 1, 2, 3), 0.2, dtype=torch.float64)
    labels = torch.full((200_000,), label)
    draws = mixture.sample(labels, torch.Generator().manual_seed(2))
    weights = torch.softmax(-(draws - x).square().flatten(1).sum(1) / 2.0, dim=0)
    expected = (weights.reshape(-1, 1, 1, 1) * draws).sum(0, keepdim=True)
    effective = float(1.0 / weights.square().sum())
    ours = mixture.posterior_mean(x, torch.ones(1, dtype=torch.float64), torch.tensor([label]))
    torch.testing.assert_close(ours, expected, atol=6.0 / effective**0.5, rtol=0)


@pytest.mark.parametrize("label", [-1, 0, 2])
def test_posterior_mean_follows_from_the_density_by_tweedies_formula(
    make_mixture: Make, label: int
) -> None:
    mixture = make_mixture()
    x, sigma, _ = noisy_images(mixture)
    labels = torch.full((len(x),), label)
    x.requires_grad_(True)
    (score,) = torch.autograd.grad(mixture.log_density(x, sigma, labels).sum(), x)
    estimate = x + sigma.square().reshape(-1, 1, 1, 1) * score
    torch.testing.assert_close(mixture.posterior_mean(x, sigma, labels), estimate)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_float32_keeps_up_with_float64_from_small_to_large_noise(
    make_mixture: Make, setting: dict[str, object]
) -> None:
    wide = make_mixture(**setting)
    narrow = Mixture.from_tensors(
        {name: value.float() for name, value in wide.to_tensors().items()}, wide.image_shape
    )
    g = torch.Generator().manual_seed(4)
    labels = torch.arange(400) % (wide.classes + 1) - 1
    sigma = torch.logspace(np.log10(0.002), 2.0, 400, dtype=torch.float64)
    x = wide.sample(labels, g)
    x += sigma.reshape(-1, 1, 1, 1) * torch.randn(x.shape, generator=g, dtype=torch.float64)
    ours = narrow.posterior_mean(x.float(), sigma.float(), labels)
    torch.testing.assert_close(
        ours.double(), wide.posterior_mean(x, sigma, labels), atol=2e-5, rtol=1e-4
    )


@pytest.mark.parametrize("sigma", [0.002, 0.05, 1.0, 100.0])
def test_float32_is_finite_for_images_far_from_a_prior_without_spread(
    make_mixture: Make, sigma: float
) -> None:
    """No variance anywhere: the estimate is the nearest centre's neighbourhood, never NaN."""
    mixture = make_mixture(
        variances=torch.zeros(3, 3),
        floor=torch.zeros(3),
        rest=torch.zeros(5),
        dtype=torch.float32,
    )
    x = torch.randn(40, 1, 3, 4, generator=torch.Generator().manual_seed(5)) * 10.0
    labels = torch.arange(40) % 4 - 1
    estimate = mixture.posterior_mean(x, torch.full((40,), sigma), labels)
    assert estimate.isfinite().all()
    centres = mixture.means.flatten(0, 1).norm(dim=1).max()
    assert (estimate.flatten(1).norm(dim=1) <= centres * 1.001).all()


def test_small_noise_leaves_the_image_and_large_noise_the_mean_of_the_class(
    make_mixture: Make,
) -> None:
    mixture = make_mixture()
    labels = torch.tensor([0, 1, 2])
    x = mixture.sample(labels, torch.Generator().manual_seed(6))
    small, large = torch.full((3,), 1e-4), torch.full((3,), 1e5)
    torch.testing.assert_close(
        mixture.posterior_mean(x, small.double(), labels), x, atol=1e-5, rtol=0
    )
    centres = (mixture.weights.unsqueeze(1) @ mixture.means).squeeze(1)
    z = torch.cat([centres, torch.zeros(3, 5, dtype=torch.float64)], dim=1)
    expected = mixture.frame.to_images(z)
    ours = mixture.posterior_mean(x, large.double(), labels)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_components_and_classes_of_weight_zero_take_no_part(make_mixture: Make) -> None:
    weights = torch.tensor([[0.5, 0.0, 0.5], [1.0, 1.0, 1.0], [0.2, 0.8, 0.0]])
    class_weights = torch.tensor([0.7, 0.0, 0.3])
    mixture = make_mixture(components=3, weights=weights, class_weights=class_weights)
    x, sigma, labels = noisy_images(mixture)
    expected, _ = reference(mixture, x, sigma, labels)
    torch.testing.assert_close(mixture.posterior_mean(x, sigma, labels), expected)
    draws = mixture.sample(torch.full((500,), -1), torch.Generator().manual_seed(0))
    assert mixture.log_density(draws, torch.full((500,), 0.1).double()).isfinite().all()


def test_an_empty_batch_is_an_empty_batch(make_mixture: Make) -> None:
    mixture = make_mixture()
    nobody = torch.zeros(0, dtype=torch.long)
    x = mixture.sample(nobody)
    assert x.shape == (0, 1, 3, 4)
    assert mixture.posterior_mean(x, torch.zeros(0), nobody).shape == (0, 1, 3, 4)


def test_no_labels_mean_any_class(make_mixture: Make) -> None:
    mixture = make_mixture()
    x, sigma, _ = noisy_images(mixture)
    anyone = torch.full((len(x),), -1)
    assert torch.equal(mixture.posterior_mean(x, sigma), mixture.posterior_mean(x, sigma, anyone))


def test_an_image_is_denoised_alike_alone_and_in_company(make_mixture: Make) -> None:
    mixture = make_mixture()
    x, sigma, labels = noisy_images(mixture)
    together = mixture.posterior_mean(x, sigma, labels)
    for i in range(len(x)):
        alone = mixture.posterior_mean(x[i : i + 1], sigma[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(alone[0], together[i])


@pytest.mark.parametrize("count", [16, 61])
def test_an_image_is_denoised_to_the_same_bits_whatever_the_others_are(
    make_mixture: Make, count: int
) -> None:
    """Other labels, in other numbers, at other places: a unit's gradient must not feel them."""
    sizes = {"dimension": 300, "rank": 40, "classes": 5, "components": 16}
    mixture = make_mixture((1, 20, 20), dtype=torch.float32, **sizes)
    g = torch.Generator().manual_seed(2)
    for _ in range(8):
        x, others = torch.randn(2, count, 1, 20, 20, generator=g)
        sigma = 0.05 + 3 * torch.rand(count, generator=g)
        labels, changed = torch.randint(-1, 5, (2, count), generator=g)
        expected = mixture.posterior_mean(x, sigma, labels)
        place = torch.randperm(count, generator=g)
        moved = mixture.posterior_mean(x[place], sigma[place], labels[place])
        assert torch.equal(moved, expected[place])
        others[0], changed[0] = x[0], labels[0]
        assert torch.equal(mixture.posterior_mean(others, sigma, changed)[0], expected[0])


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("label", [-1, 0])
def test_samples_have_the_mean_and_covariance_of_the_mixture(
    make_mixture: Make, setting: dict[str, object], label: int
) -> None:
    mixture = make_mixture(**setting)
    count = 60_000
    draws = mixture.sample(torch.full((count,), label), torch.Generator().manual_seed(7))
    mean, second = 0.0, 0.0
    for y in range(mixture.classes) if label < 0 else [label]:
        share = float(mixture.class_weights[y]) if label < 0 else 1.0
        weights, centres, covariance = dense(mixture, y)
        mean = mean + share * (weights @ centres)
        second = second + share * (covariance + (weights[:, None] * centres).T @ centres)
    covariance = second - np.outer(mean, mean)
    flat = draws.flatten(1).numpy()
    scale = np.sqrt(np.diag(covariance))
    assert np.abs((flat.mean(0) - mean) / scale).max() < 5.0 / count**0.5
    error = (np.cov(flat.T) - covariance) / np.outer(scale, scale)
    assert np.abs(error).max() < 8.0 / count**0.5


def test_samples_are_fixed_by_a_seed(make_mixture: Make) -> None:
    mixture = make_mixture()
    labels = torch.tensor([0, -1, 2, 1])
    first = mixture.sample(labels, torch.Generator().manual_seed(8))
    again = mixture.sample(labels, torch.Generator().manual_seed(8))
    assert torch.equal(first, again)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_safetensors_give_the_same_prior_back(
    make_mixture: Make, setting: dict[str, object]
) -> None:
    mixture = make_mixture(**setting, dtype=torch.float32)
    again = Mixture.from_tensors(load(save(mixture.to_tensors())), mixture.image_shape)
    x, sigma, labels = noisy_images(mixture)
    assert torch.equal(
        mixture.posterior_mean(x, sigma, labels), again.posterior_mean(x, sigma, labels)
    )


def test_a_broadened_prior_is_that_of_samples_with_noise(make_mixture: Make) -> None:
    """Noise of 0.3 before and 0.4 after is noise of 0.5."""
    mixture = make_mixture()
    x, _, labels = noisy_images(mixture)
    after = torch.full((len(x),), 0.4, dtype=torch.float64)
    whole = torch.full((len(x),), 0.5, dtype=torch.float64)
    torch.testing.assert_close(
        mixture.broadened(0.3).log_density(x, after, labels),
        mixture.log_density(x, whole, labels),
    )


def test_a_prior_has_no_parameters_and_stays_out_of_a_state_dict(make_mixture: Make) -> None:
    mixture = make_mixture()
    assert list(mixture.parameters()) == []
    assert mixture.state_dict() == {}


def test_autocast_does_not_round_the_posterior(make_mixture: Make) -> None:
    mixture = make_mixture(dtype=torch.float32)
    x, sigma, labels = noisy_images(mixture)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mixture.posterior_mean(x, sigma, labels)
    assert torch.equal(inside, mixture.posterior_mean(x, sigma, labels))


def test_weights_are_scaled_to_sum_to_one(make_mixture: Make) -> None:
    mixture = make_mixture(class_weights=torch.tensor([2.0, 1.0, 1.0]))
    torch.testing.assert_close(
        mixture.class_weights, torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    )
    torch.testing.assert_close(mixture.weights.sum(1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"means": torch.full((3, 4, 7), torch.nan)}, "means that are not finite"),
        ({"variances": torch.full((3, 3), -0.1)}, "variances below zero"),
        ({"weights": torch.zeros(3, 4)}, "a class whose weights are all zero"),
        ({"class_weights": torch.zeros(3)}, "a class whose weights are all zero"),
        ({"basis": torch.ones(3, 7, 3)}, "columns are not orthonormal"),
        ({"rest": torch.ones(4)}, r"rest of shape \(4,\) where \(5,\) belongs"),
        ({"floor": torch.ones(2)}, r"floor of shape \(2,\) where \(3,\) belongs"),
    ],
)
def test_fields_that_make_no_prior_are_refused_by_name(
    make_mixture: Make, fields: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(DpdmError, match=message):
        make_mixture(**fields)


def test_a_damaged_file_is_refused(make_mixture: Make) -> None:
    tensors = make_mixture().to_tensors()
    with pytest.raises(DpdmError, match="the prior lacks basis"):
        Mixture.from_tensors({k: v for k, v in tensors.items() if k != "basis"}, (1, 3, 4))
    with pytest.raises(DpdmError, match="do not sum to one"):
        Mixture.from_tensors({**tensors, "weights": 2.0 * tensors["weights"]}, (1, 3, 4))


def test_a_label_of_no_class_is_refused(make_mixture: Make) -> None:
    mixture = make_mixture()
    x = torch.zeros(1, 1, 3, 4)
    with pytest.raises(RequestError, match="label 3 is not a class of this prior: it has 3"):
        mixture.posterior_mean(x, torch.ones(1), torch.tensor([3]))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 4, 4)])
def test_a_stand_in_has_the_size_of_a_fitted_mixture(shape: tuple[int, int, int]) -> None:
    mixture = Mixture.stand_in(shape, 5)
    assert mixture.classes == 5
    assert mixture.dimension == min(512, math.prod(shape))
    x = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    mean = mixture.posterior_mean(x, torch.full((6,), 2.0), torch.arange(6) % 5)
    torch.testing.assert_close(mean, x / 5.0)


def test_a_prior_of_before_axes_of_colour_is_refused_and_says_what_to_do() -> None:
    mixture = Mixture.stand_in((3, 4, 4), 2)
    tensors = mixture.to_tensors()
    assert Mixture.from_tensors(tensors, (3, 4, 4)).dimension == mixture.dimension
    assert mixture.broadened(0.1).image_shape == (3, 4, 4)
    before = {name: value for name, value in tensors.items() if name != "colour_axes"}
    with pytest.raises(DpdmError, match="red, green and blue apart: train again"):
        Mixture.from_tensors(before, (3, 4, 4))
    assert "colour_axes" not in Mixture.stand_in((1, 4, 4), 2).to_tensors()
