"""The prior's sampler with poses: what it draws, how it is kept, what it refuses."""

from __future__ import annotations

import pytest
import torch

from dpdm.diffusion.gaussians import COARSE_DIRECTIONS
from dpdm.diffusion.mixture import Mixture
from dpdm.diffusion.posed import PosedSampler
from dpdm.errors import DpdmError

SHAPE = (1, 8, 8)


def fields(classes: int = 2, dimension: int = 20, poses: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    whole, rank = dimension + poses, 5
    basis = torch.linalg.qr(torch.randn(classes, whole, rank, generator=generator))[0]
    return {
        "class_weights": torch.full((classes,), 1.0 / classes),
        "weights": torch.full((classes, 3), 1.0 / 3.0),
        "means": 0.3 * torch.randn(classes, 3, whole, generator=generator),
        "basis": basis,
        "variances": torch.full((classes, rank), 0.2),
        "floor": torch.full((classes,), 0.01),
        "rest": torch.full((classes, 64 - dimension), 0.01),
        "poses": torch.zeros(classes, poses),
        "pose_scale": torch.full((poses,), 0.1),
        "augment": torch.tensor(1.0),
        "detail": torch.tensor([0.0, 3.0**0.5]),
        "roots": 0.3 * torch.randn(classes, 3, 2, 2, generator=generator),
    }


def mixture() -> Mixture:
    kept = fields(poses=0)
    rest = {"rest": kept.pop("rest")[0]}
    plain = {name: kept[name] for name in ("class_weights", "weights", "means", "basis")}
    plain |= {name: kept[name] for name in ("variances", "floor")}
    return Mixture.build(SHAPE, **plain, **rest)


@pytest.mark.parametrize("poses", [0, 1, 3, 6])
def test_draws_are_images_in_range_of_the_labels_asked_for(poses: int) -> None:
    sampler = PosedSampler(SHAPE, fields(poses=poses))
    drawn = sampler.sample(torch.tensor([0, 1, -1] * 5), torch.Generator().manual_seed(0))
    assert drawn.shape == (15, *SHAPE)
    assert drawn.isfinite().all()
    assert float(drawn.abs().max()) <= 1.0


def test_a_seed_fixes_the_draw() -> None:
    sampler, labels = PosedSampler(SHAPE, fields()), torch.zeros(4, dtype=torch.int64)
    first, second = (sampler.sample(labels, torch.Generator().manual_seed(3)) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_without_augmentation_detail_and_poses_it_draws_what_the_mixture_draws() -> None:
    kept = fields(poses=0) | {"augment": torch.tensor(0.0), "detail": torch.ones(2)}
    kept["roots"] = torch.zeros(2, 3, 0, 0)
    labels = torch.tensor([0, 1] * 10)
    drawn = PosedSampler(SHAPE, kept).sample(labels, torch.Generator().manual_seed(0))
    plain = mixture().sample(labels, torch.Generator().manual_seed(0)).clamp(-1.0, 1.0)
    torch.testing.assert_close(drawn, plain)


def test_a_component_has_the_covariance_of_its_own_roots() -> None:
    kept = fields(classes=1, dimension=64, poses=0) | {"augment": torch.tensor(0.0)}
    kept |= {"detail": torch.ones(2), "floor": torch.zeros(1)}
    kept["means"] = torch.zeros(1, 3, 64)
    kept["means"][0, :, 60] = torch.tensor([-2.0, 0.0, 2.0])  # which component drew
    kept["basis"] = torch.eye(64)[None, :, :5]
    kept["variances"] = torch.full((1, 5), 0.01)
    kept["roots"] = torch.tensor([[[[0.1, 0.0], [0.0, 0.1]], [[0.1, 0.0], [0.2, 0.05]]]])
    kept["roots"] = torch.cat([kept["roots"], torch.zeros(1, 1, 2, 2)], dim=1)
    sampler = PosedSampler(SHAPE, kept)
    drawn = sampler.sample(torch.zeros(12_000, dtype=torch.int64), torch.Generator().manual_seed(0))
    z = sampler.frame.to_coefficients(drawn)
    for component, where in enumerate((-2.0, 0.0, 2.0)):
        own = z[(z[:, 60] - where).abs() < 0.5, :5]
        root = kept["roots"][0, component]
        expected = torch.diag(torch.full((5,), 0.01))
        expected[:2, :2] = root @ root.T
        torch.testing.assert_close(own.T.cov(), expected, atol=3e-3, rtol=0.05)


def test_a_sampler_of_before_there_were_roots_has_none() -> None:
    kept = fields()
    del kept["roots"]
    assert PosedSampler(SHAPE, kept).roots.shape == (2, 3, 0, 0)


def test_a_sampler_of_before_detail_had_bounds_draws_as_it_did() -> None:
    labels = torch.zeros(20, dtype=torch.int64)
    drawn = [
        PosedSampler(SHAPE, fields() | {"detail": detail}).sample(
            labels, torch.Generator().manual_seed(0)
        )
        for detail in (torch.tensor(0.75), torch.tensor([0.25, 1.0]), torch.ones(2))
    ]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=0)
    assert not torch.equal(drawn[0], drawn[2])


def test_amounts_of_detail_up_to_the_root_of_three_keep_the_covariance() -> None:
    kept = fields(classes=1, dimension=64, poses=0) | {"augment": torch.tensor(0.0)}
    rank = COARSE_DIRECTIONS + 10
    kept["means"] = torch.zeros(1, 3, 64)
    kept["basis"] = torch.eye(64)[None, :, :rank]
    kept["variances"] = torch.full((1, rank), 0.01)
    kept["floor"] = torch.full((1,), 0.02)
    kept["roots"] = torch.zeros(1, 3, 0, 0)
    labels, shares = torch.zeros(20_000, dtype=torch.int64), {}
    for most in (1.0, 3.0**0.5):
        sampler = PosedSampler(SHAPE, kept | {"detail": torch.tensor([0.0, most])})
        z = sampler.frame.to_coefficients(sampler.sample(labels, torch.Generator().manual_seed(0)))
        expected = torch.cat([kept["variances"][0], kept["floor"].expand(64 - rank)])
        shares[most] = z.var(0) / expected
    ones = torch.ones(64)
    torch.testing.assert_close(shares[3.0**0.5], ones, atol=0.07, rtol=0)
    ones[COARSE_DIRECTIONS:] = 1.0 / 3.0
    torch.testing.assert_close(shares[1.0], ones, atol=0.07, rtol=0)


def test_beyond_the_kept_directions_each_coefficient_has_a_variance_of_its_own() -> None:
    kept = fields(classes=1, dimension=64, poses=0) | {"augment": torch.tensor(0.0)}
    kept |= {"detail": torch.ones(2), "means": torch.zeros(1, 3, 64)}
    kept |= {"variances": torch.full((1, 5), 0.03), "roots": torch.zeros(1, 3, 0, 0)}
    kept |= {"basis": torch.linalg.qr(torch.randn(64, 5))[0][None]}
    kept |= {"floor": torch.linspace(0.001, 0.02, 64)[None]}
    sampler = PosedSampler(SHAPE, kept)
    drawn = sampler.sample(torch.zeros(20_000, dtype=torch.int64), torch.Generator().manual_seed(0))
    basis = kept["basis"][0]
    expected = 0.03 * basis @ basis.T + torch.diag(kept["floor"][0])
    found = sampler.frame.to_coefficients(drawn).T.cov()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0.06)


def test_texture_lies_on_the_shape() -> None:
    kept = fields(classes=1, dimension=1, poses=1) | {"augment": torch.tensor(0.0)}
    kept |= {"means": torch.zeros(1, 3, 2), "variances": torch.zeros(1, 1), "floor": torch.zeros(1)}
    kept["basis"] = torch.eye(2)[None, :, :1]
    kept["roots"] = torch.zeros(1, 3, 0, 0)
    kept["means"][0, :, 0] = -8.0  # the first coefficient of a black image
    drawn = PosedSampler(SHAPE, kept).sample(torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(drawn, torch.full_like(drawn, -1.0), atol=1e-5, rtol=0)


def test_a_mixture_keeps_its_sampler_and_draws_from_it() -> None:
    whole = mixture()
    whole.sampler = PosedSampler(SHAPE, fields())
    again = Mixture.from_tensors(whole.to_tensors(), SHAPE)
    labels = torch.tensor([0, 1, 1])
    for one in (whole, again):
        drawn = one.sample(labels, torch.Generator().manual_seed(1))
        expected = whole.sampler.sample(labels, torch.Generator().manual_seed(1))
        torch.testing.assert_close(drawn, expected, rtol=0, atol=0)
    x, sigma = torch.zeros(3, *SHAPE), torch.ones(3)
    torch.testing.assert_close(
        again.posterior_mean(x, sigma, labels), mixture().posterior_mean(x, sigma, labels)
    )
    assert whole.broadened(0.1).sampler is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("poses", torch.zeros(2, 5), "5 pose parameters|poses"),
        ("pose_scale", torch.full((6,), float("nan")), "pose_scale that are not finite"),
        ("augment", torch.tensor(-1.0), "augment below zero"),
        ("floor", torch.ones(2, 20), "floor of shape"),
        ("detail", torch.ones(3), "detail of shape"),
        ("detail", torch.tensor([0.0, -1.0]), "detail below zero"),
        ("rest", torch.zeros(44), "rest of shape"),
        ("basis", torch.ones(2, 26, 5), "not orthonormal"),
        ("roots", torch.zeros(2, 3, 6, 6), "roots in 6 directions where there are 5"),
        ("roots", torch.zeros(2, 1, 2, 2), "roots of shape"),
        ("roots", torch.full((2, 3, 2, 2), float("nan")), "roots that are not finite"),
    ],
)
def test_damaged_fields_are_refused_by_name(name: str, value: torch.Tensor, words: str) -> None:
    with pytest.raises(DpdmError, match=words):
        PosedSampler(SHAPE, fields() | {name: value})
