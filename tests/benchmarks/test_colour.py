"""The stand-in for a person's colour folder: each class in its colour, on a real photograph."""

from __future__ import annotations

import argparse
import json

import colour
import numpy as np


def test_an_item_covers_its_photograph_in_its_classes_colour():
    items = np.zeros((4, 28, 28, 1), np.uint8)
    items[:, 10:18, 10:18] = 255
    for label in (0, 1):
        images = colour.coloured(items, label, np.random.default_rng(0))
        assert images.shape == (4, 32, 32, 3)
        inside, outside = images[:, 13:19, 13:19], images[:, :10]
        assert np.abs(inside.mean((0, 1, 2)) - np.array(colour._COLOURS[label])).max() < 40
        assert inside.std(axis=(1, 2)).max() == 0
        assert outside.std() > 10


def test_the_same_seed_makes_the_same_images():
    items = np.full((3, 28, 28, 1), 90, np.uint8)
    first, second = (colour.coloured(items, 3, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_prior_alone_has_a_line_without_steps(monkeypatch, tmp_path):
    (tmp_path / "images").mkdir()

    def timed(name, command):
        if name == "train":
            release = tmp_path / "own-prior" / "release"
            release.mkdir(parents=True)
            (release / "privacy.json").write_text('{"epsilon": 10.0, "delta": 1e-6}')
        if name == "evaluate":
            found = {"accuracy": {"lr": 0.9, "mlp": 0.9, "cnn": 0.9}, "fd-pixels": 2.0}
            (tmp_path / "found.json").write_text(json.dumps(found))
        return {f"{name}_seconds": 1.0, f"{name}_peak_bytes": 2**30}

    monkeypatch.setattr(colour, "timed", timed)
    options = argparse.Namespace(data="fashion", work=tmp_path, preset="own-prior", set=[])
    line = colour.measure(options)
    assert (line["steps"], line["steps_seconds"]) == (0, 0)
    assert "`own-prior`: 0 steps" in colour.section([line])
