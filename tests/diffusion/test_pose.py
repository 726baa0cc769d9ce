"""Poses: what they measure, what reposing does, and that any image has one."""

from __future__ import annotations

import math

import pytest
import torch

from dpdm.diffusion.pose import POSE_SIZES, identity_grid, measure_pose, repose

SIZES = sorted(POSE_SIZES.values())


def ellipse(
    x: float = 0.0,
    y: float = 0.0,
    width: float = 0.2,
    height: float = 0.3,
    slant: float = 0.0,
    level: float = 1.0,
    side: int = 64,
) -> torch.Tensor:
    """A Gaussian blob (1, 1, side, side); width and height are standard deviations."""
    axis = (2 * torch.arange(side) + 1) / side - 1
    down, across = torch.meshgrid(axis - y, axis - x, indexing="ij")
    across = across - slant * down
    ink = level * torch.exp(-0.5 * ((across / width) ** 2 + (down / height) ** 2))
    return (2 * ink - 1)[None, None]


def test_the_centre_is_where_the_shape_is() -> None:
    pose = measure_pose(ellipse(x=0.2, y=-0.1, width=0.1, height=0.1), 3)[0]
    assert pose[1:].tolist() == pytest.approx([0.2, -0.1], abs=1e-3)


def test_sizes_are_logarithms_of_standard_deviations() -> None:
    pose = measure_pose(ellipse(width=0.12, height=0.2), 6)[0]
    assert pose[3:5].tolist() == pytest.approx([0.0, math.log(0.6) / math.log(6)], abs=1e-2)


def test_slant_is_the_shift_across_per_step_down() -> None:
    assert measure_pose(ellipse(slant=0.5, width=0.1, height=0.2), 6)[0, 5] == pytest.approx(
        0.5, abs=1e-2
    )


def test_the_width_of_a_shape_that_is_too_slanted_is_that_beside_the_greatest_slant() -> None:
    slanted = ellipse(width=0.06, height=0.1, slant=1.5)
    pose = measure_pose(slanted, 6)[0]
    assert pose[5] == 1.0
    # x - y = (x - 1.5 y) + 0.5 y
    assert 0.2 * 6 ** pose[4].item() == pytest.approx(math.hypot(0.06, 0.5 * 0.1), rel=0.01)


def test_half_the_light_is_a_quarter_of_the_range_of_brightness() -> None:
    bright, dim = (measure_pose(ellipse(level=level), 1)[0, 0] for level in (1.0, 0.5))
    assert bright - dim == pytest.approx(0.5, abs=1e-3)  # log 2 over half of log 16


def test_reposed_a_shape_has_the_pose_that_was_asked_for() -> None:
    x = ellipse(x=0.1, y=0.1, width=0.15, height=0.25, slant=0.3, level=0.5)
    target = measure_pose(ellipse(x=-0.1, width=0.2, height=0.2, slant=-0.2, level=0.9), 6)
    reposed = repose(x, measure_pose(x, 6), target)
    torch.testing.assert_close(measure_pose(reposed, 6), target, atol=0.02, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_in_its_own_pose_an_image_stays_as_it_is(size: int) -> None:
    x = torch.rand(4, 3, 7, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pose = measure_pose(x, size)
    torch.testing.assert_close(repose(x, pose, pose), x, atol=1e-4, rtol=0)
    torch.testing.assert_close(repose(x, pose, pose, identity_grid(x)), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 6, 10), (1, 1, 1)])
def test_any_image_has_a_pose_and_a_finite_picture(size: int, shape: tuple[int, int, int]) -> None:
    black = torch.full((5, *shape), -1.0)
    white, one, row, noise = (black[0].clone() for _ in range(4))
    white[:] = 1.0
    one[:, 0, 0] = 1.0
    row[:, 0] = 1.0
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = torch.stack([black[0], white, one, row, noise])
    pose = measure_pose(x, size)
    assert pose.shape == (5, size)
    assert pose.isfinite().all()
    assert (pose.abs() <= 1).all()
    for target in (torch.zeros(5, size), torch.ones(5, size), -torch.ones(5, size)):
        assert repose(x, pose, target).isfinite().all()
    assert float(repose(black, measure_pose(black, size), torch.ones(5, size)).max()) == -1.0


def test_the_pose_of_an_image_follows_from_it_alone() -> None:
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    apart = torch.cat([measure_pose(x[i : i + 1], 6) for i in range(6)])
    torch.testing.assert_close(measure_pose(x, 6), apart, atol=1e-5, rtol=0)
