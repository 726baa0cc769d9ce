"""A release of a prior with poses: `release/` alone draws the same images, and is small."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dpdm import load, load_config, open_dataset
from dpdm.diffusion.denoiser import BaseDenoiser, Denoiser, PriorBase
from dpdm.pipeline import sample_release
from dpdm.training.run import train

ALONE = ("training.steps=0", "prior.normalise=affine", "prior.augment=1", "sampling.count=40")
WARMED = (
    "training.steps=0",
    "warmup.steps=2",
    "warmup.batch_size=8",
    "warmup.pool=50",
    "prior.normalise=affine",
    "network.base_channels=8",
    "sampling.steps=2",
    "sampling.count=10",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("posed") / "run"
    return train(open_dataset("digits"), load_config("digits", ALONE), out, device="cpu")


def test_the_release_alone_draws_the_same_images(run, tmp_path: Path) -> None:
    shutil.copytree(run.release, tmp_path / "release")
    moved, kept = load(tmp_path / "release"), run.model()
    first, second = (model.sample(30, seed=4)[0] for model in (moved, kept))
    np.testing.assert_array_equal(first, second)
    assert moved.mixture is not None
    assert moved.mixture.sampler is not None


def test_with_a_sampler_named_the_plain_mixture_is_drawn_from(run) -> None:
    images, labels = run.model().sample(12, sampler="heun", steps=3, seed=0)
    assert images.shape == (12, 8, 8, 1)
    assert len(set(labels.tolist())) == 10


@pytest.mark.parametrize("base", ["skip", "informed", "prior"])
def test_without_a_network_the_prior_is_the_denoiser_whatever_the_base(
    tmp_path: Path, base: str
) -> None:
    config = load_config("digits", ["training.steps=0", f"diffusion.base={base}"])
    model = train(open_dataset("digits"), config, tmp_path / "run", device="cpu").model()
    assert isinstance(model.denoiser, BaseDenoiser)
    assert isinstance(model.denoiser.base, PriorBase)
    images, _ = model.sample(50, sampler="heun", steps=8, seed=0)
    blank = np.isin(images, (0, 255)).all(axis=(1, 2, 3)).mean()
    assert blank < 0.1


def test_its_statement_names_the_poses_and_keeps_the_budget(run) -> None:
    statement = run.statement()
    assert "prior poses" in [use["name"] for use in statement["mechanisms"]]
    assert statement["epsilon"] <= 10.0
    assert (run.release / "model.safetensors").stat().st_size < 4e6
    assert sample_release(run).is_file()


def test_a_network_has_the_plain_mixture_as_its_base(tmp_path: Path) -> None:
    config = load_config("digits", WARMED)
    model = train(open_dataset("digits"), config, tmp_path / "run", device="cpu").model()
    assert isinstance(model.denoiser, Denoiser)
    assert model.denoiser.base.mixture.sampler is None
    assert model.mixture is not None
    assert model.mixture.sampler is not None
    assert model.sample(5, seed=0)[0].shape == (5, 8, 8, 1)
