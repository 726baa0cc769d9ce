"""`own` and `own-prior` on small collections of a person's: grey, colour, without classes."""

from __future__ import annotations

import numpy as np
import pytest

import dpdm
from dpdm.errors import RequestError
from dpdm.training.run import train

COLOURS = np.array([[220, 30, 30], [30, 200, 40], [40, 60, 230]], float)
SHORT = ("training.batch_size=32", "training.steps=2", "sampling.count=30")


def collection(tmp_path, channels: int, labelled: bool = True) -> dpdm.Dataset:
    """600 images 12x12: a light square on the ground of its class's colour."""
    random, labels = np.random.default_rng(0), np.arange(600) % 3
    images = np.repeat(np.repeat(COLOURS[labels][:, None, None], 12, 1), 12, 2)
    images[:, 4:8, 4:8] = 250
    images = (images + random.normal(0, 10, images.shape)).clip(0, 255).astype(np.uint8)
    if channels != 3:
        images = images[..., [0] * channels]
    path = tmp_path / "mine.npz"
    np.savez(path, images=images, **({"labels": labels} if labelled else {}))
    return dpdm.open_dataset(str(path))


@pytest.mark.parametrize(("preset", "settings"), [("own", SHORT), ("own-prior", ())])
def test_samples_of_a_colour_collection_have_its_classes_colours_and_layout(
    preset, settings, tmp_path
):
    run = train(collection(tmp_path, 3), dpdm.load_config(preset, settings), tmp_path / "run")
    assert run.statement()["epsilon"] <= 10
    images, labels = run.model().sample(60, seed=0)
    assert images.shape == (60, 12, 12, 3)
    ground = images[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1)
    nearest = np.linalg.norm(ground[:, None] - COLOURS, axis=2).argmin(1)
    assert (nearest == labels).mean() > 0.9
    assert images[:, 5:7, 5:7].mean() > images[:, :2].mean() + 50


@pytest.mark.parametrize("labelled", [True, False])
def test_grey_images_with_and_without_classes(tmp_path, labelled):
    data = collection(tmp_path, 1, labelled)
    run = train(data, dpdm.load_config("own", SHORT), tmp_path / "run")
    images, labels = run.model().sample(30, seed=0)
    assert images.shape == (30, 12, 12, 1)
    assert set(labels.tolist()) == ({0, 1, 2} if labelled else {-1})
    named = run.statement()["treated_as_public"]
    assert any("procedural images" in text for text in named)


def test_channels_that_no_weights_are_shipped_for_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(RequestError, match="make some with"):
        train(collection(tmp_path, 4), dpdm.load_config("own", SHORT), tmp_path / "run")
    assert not (tmp_path / "run").exists()
