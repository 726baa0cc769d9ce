"""All images of a person as the unit: a folder with metadata.csv, persons of 1 to 200 images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpdm.data import open_dataset

SIZES = [1, 2, 3, 5, 8, 200, *[1 + i % 7 for i in range(34)]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two classes, 40 persons; the images of one of them are a third of the folder."""
    path = tmp_path_factory.mktemp("persons")
    generator = np.random.default_rng(0)
    rows = []
    for person, size in enumerate(SIZES):
        for number in range(size):
            label = int(generator.integers(2))
            pixels = generator.integers(0, 90, (8, 8), dtype=np.uint8)
            pixels[:, 4 * label : 4 * label + 4] += 150
            name = f"{person}-{number}.png"
            Image.fromarray(pixels).save(path / name)
            rows.append((name, f"class {label}", f"person {person}"))
    with (path / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "label", "group"), *rows])
    return path


def settings(*more: str) -> list[str]:
    values = (
        "privacy.unit=group",
        "privacy.delta=1e-3",
        "data.public_size=40",
        "training.batch_size=10",
        "training.steps=5",
        "training.microbatch=4",
        "training.least_signal=0",
        "views.count=4",
        "sampling.count=40",
        "sampling.steps=3",
        *more,
    )
    return [part for value in values for part in ("--set", value)]


def test_the_promise_is_made_to_persons(dpdm, folder, tmp_path):
    status, _, said = dpdm(
        "train", "digits", "--data", folder, "--out", tmp_path / "run", *settings()
    )
    assert status == 0, said
    _, shown, _ = dpdm("privacy", "statement", tmp_path / "run", "--json")
    statement = json.loads(shown)
    assert statement["unit"] == "group"
    assert statement["private"] is True
    assert 9.5 < statement["epsilon"] <= 10.0
    steps = next(use for use in statement["mechanisms"] if use["name"] == "DP-SGD step")
    assert steps["event"]["sample_rate"] == pytest.approx(10 / 40)
    text = (tmp_path / "run" / "release" / "PRIVACY.md").read_text("utf-8")
    assert "all images of one" in text
    release, samples = tmp_path / "run" / "release", tmp_path / "s.npz"
    status, _, said = dpdm("sample", release, "-n", "6", "--out", samples)
    assert status == 0, said
    assert open_dataset(str(samples)).shape == (8, 8, 1)


def test_undeclared_the_number_of_persons_and_not_of_images_is_public(folder):
    facts = open_dataset(str(folder)).facts("group")
    assert facts.public_size == len(SIZES)
    assert open_dataset(str(folder)).facts("image").public_size == sum(SIZES)


def test_images_without_groups_are_refused_in_one_line(dpdm, tmp_path):
    status, _, said = dpdm("train", "digits", "--out", tmp_path / "run", *settings())
    assert status == 2
    assert said.startswith("error: privacy.unit=group: digits does not say whose")
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
