"""Images on their way from noise: the release's own draw, at a few of its steps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpdm.config import load_config
from dpdm.diffusion.samplers import SAMPLERS
from dpdm.release.build import build_denoiser
from dpdm.release.model import Model
from dpdm.release.trajectory import draw_trajectory

SHAPE = (1, 8, 8)
SMALL = ("prior.enabled=false", "warmup.steps=0", "network.base_channels=8")


class Flat(nn.Module):
    """Every image of class y is the grey level 40 y, whatever the noise."""

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        return (40.0 * labels / 127.5 - 1.0).reshape(-1, 1, 1, 1).expand_as(x)


def model(*settings: str, denoiser: nn.Module | None = None, classes: int = 3) -> Model:
    config = load_config("digits", [*SMALL, *settings])
    names = tuple(str(number) for number in range(classes))
    if denoiser is None:
        generator = torch.Generator().manual_seed(0)
        denoiser = build_denoiser(config, SHAPE, classes, None, generator).eval()
    return Model(config, SHAPE, names, denoiser, None, None, None)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_it_ends_with_the_images_that_the_model_draws(sampler):
    own = model(f"sampling.sampler={sampler}", "sampling.steps=12")
    found = draw_trajectory(own, [0, 2], 2, seed=5)
    images, labels = own.sample(2, labels=[0, 2], seed=5)
    np.testing.assert_array_equal(found.frames[-1], images)
    assert found.labels.tolist() == labels.tolist() == [0, 2]
    assert (found.sampler, found.steps) == (sampler, 12)


def test_it_starts_with_noise_and_loses_it_step_by_step():
    found = draw_trajectory(model(denoiser=Flat()), [0, 1, 2], 3, seed=0)
    spread = found.frames.reshape(len(found.frames), -1).std(axis=1)
    away = [abs(frame.astype(float) - found.frames[-1]).mean() for frame in found.frames]
    assert (found.frames[-1] == np.array([0, 40, 80]).reshape(-1, 1, 1, 1)).all()
    assert spread[0] > 60
    assert all(later < earlier for earlier, later in itertools.pairwise(away))


@pytest.mark.parametrize("frames", [1, 2, 5, 8, 20])
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_noise_falls_from_frame_to_frame_down_to_none(steps, frames):
    own = model(f"sampling.steps={steps}", denoiser=Flat())
    found = draw_trajectory(own, "uniform", 2, frames=frames, seed=0)
    assert found.frames.shape == (len(found.sigmas), 2, 8, 8, 1)
    assert all(later < earlier for earlier, later in itertools.pairwise(found.sigmas))
    assert found.sigmas[-1] == 0.0
    assert len(found.sigmas) <= max(2, frames)


def test_very_many_steps_are_shortened_and_said_so():
    own = model("sampling.steps=1000", denoiser=Flat())
    assert draw_trajectory(own, "uniform", 1, most_steps=10, seed=0).steps == 10


def test_a_model_without_classes_has_images_without_labels():
    found = draw_trajectory(model(classes=0), "uniform", 2, seed=0)
    assert found.labels.tolist() == [-1, -1]


def test_only_a_network_needs_the_steps():
    assert not draw_trajectory(model(), "uniform", 1, seed=0).shortcut
    assert draw_trajectory(model(denoiser=Flat()), "uniform", 1, seed=0).shortcut
