"""Public augmentation: nothing at strength 0, small and random above."""

from __future__ import annotations

import torch

from dpdm.diffusion.augment import stretched, warped_grid
from dpdm.diffusion.pose import identity_grid

X = torch.rand(50, 1, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_at_strength_zero_nothing_changes() -> None:
    grid = identity_grid(X)
    torch.testing.assert_close(warped_grid(grid, 50, 0.0), grid.expand(50, -1, -1, -1))
    torch.testing.assert_close(stretched(X, 0.0), X)


def test_at_strength_one_places_move_by_a_tenth_of_the_image_at_most_usually() -> None:
    moved = warped_grid(identity_grid(X), 50, 1.0, torch.Generator().manual_seed(0))
    distance = (moved - identity_grid(X)).norm(dim=3)
    assert 0.05 < float(distance.mean()) < 0.2  # of 2, the image's side


def test_contrast_is_stretched_about_mid_grey_within_the_range_of_images() -> None:
    wide = stretched(X, 1.0, torch.Generator().manual_seed(0))
    assert (wide.abs() >= X.abs() - 1e-6).all()
    assert (wide * X >= 0).all()
    assert float(wide.abs().max()) <= 1.0


def test_a_seed_fixes_the_draw() -> None:
    grids = [
        warped_grid(identity_grid(X), 3, 1.0, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    torch.testing.assert_close(grids[0], grids[1])
    assert not torch.equal(grids[0], grids[2])
