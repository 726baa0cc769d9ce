"""Private data is sealed; a group is one unit, whatever the number of its images."""

from __future__ import annotations

import ast
import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dpdm
from dpdm.privacy import (
    DpSgdStep,
    Ledger,
    NoisedScatter,
    NoisedSum,
    PrivateUnits,
    SealedError,
    Session,
)
from dpdm.privacy.units import DOOR
from dpdm.training.seeded_noise import SeededNoise

SOURCE = Path(dpdm.__file__).parent
SECRET = 1234.5


class NoNoise(SeededNoise):
    """The exact clipped sum, so that two releases can be compared."""

    def gaussian(self, shape, *, key):
        return np.zeros(shape) if "images" not in key else super().gaussian(shape, key=key)


@pytest.fixture
def session(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    with Ledger.create(path, dataset="d", unit="group", noise_source="s") as ledger:
        yield Session(ledger, NoNoise(0))


# The seal


@pytest.mark.parametrize(
    "read",
    [
        len,
        list,
        bool,
        lambda units: units[0],
        np.asarray,
        np.mean,
        torch.as_tensor,
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
        lambda units: units._vectors(object(), lambda rows, labels: rows),
        lambda units: units._count(None),
        lambda units: units._gradients(None, np.zeros(1, np.int64), 1, np.zeros, print),
    ],
)
def test_sealed_data_cannot_be_read(read):
    with pytest.raises(SealedError, match="only a mechanism"):
        read(PrivateUnits(np.full((3, 2), SECRET)))


def test_nothing_of_the_data_shows():
    units = PrivateUnits(np.full((3, 2), SECRET), np.zeros(3, np.int64))
    assert "1234" not in repr(units) + str(units) + f"{units}"
    assert not hasattr(units, "__dict__")
    with pytest.raises(AttributeError):
        units.rows  # noqa: B018


def test_a_transformed_set_is_sealed_too():
    units = PrivateUnits(np.full((3, 2), SECRET)).transform(lambda rows: rows * 2)
    with pytest.raises(SealedError):
        list(units)
    ((vectors, _, _),) = units._vectors(DOOR, lambda rows, labels: rows)
    assert vectors[0, 0] == 2 * SECRET


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def names_read(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    found = {f".{node.attr}" for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found |= {name.removeprefix(".") for name in found}
    found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value, f"'{node.value}'"}  # getattr(units, "_CONTENTS")
    return found


def test_only_mechanisms_hold_the_key_of_the_seal():
    holders = {p.relative_to(SOURCE).as_posix() for p in modules() if "DOOR" in names_read(p)}
    assert holders == {"privacy/mechanisms.py", "privacy/units.py"}


def test_only_the_seal_knows_where_the_contents_lie():
    for name in ("_CONTENTS", "_Contents"):
        holders = {p.relative_to(SOURCE).as_posix() for p in modules() if name in names_read(p)}
        assert holders <= {"privacy/units.py"}, name


PRIVATE_SIDE = {
    "data",  # reads, checks and writes images
    "evaluation",  # measures on real images; its results stay on the private side
    "audit",  # plants canaries among the images; what it finds stays on the private side
}
SEALING = "training/run.py"


def test_private_arrays_are_read_by_data_evaluation_and_where_they_are_sealed():
    fields = {"private_images", "private_labels", "private_groups", "private_class_counts"}
    fields = {f".{name}" for name in fields} | {f"'{name}'" for name in fields}
    readers = {
        path.relative_to(SOURCE).as_posix() for path in modules() if fields & names_read(path)
    }
    assert {r for r in readers if r.split("/")[0] not in PRIVATE_SIDE} == {SEALING}


def test_the_check_finds_a_module_that_unwraps(tmp_path):
    culprit = tmp_path / "culprit.py"
    culprit.write_text("from dpdm.privacy.units import DOOR\nprint(data.private_images)\n")
    assert {"DOOR", ".private_images"} <= names_read(culprit)


# Contributions


def test_a_contribution_that_adds_or_drops_an_image_is_refused(session):
    units = PrivateUnits(np.ones((3, 2)))
    with pytest.raises(ValueError, match="4 vectors for 3 images"):
        NoisedSum("sum", 1.0, 1.0).release(units, lambda rows, _: np.ones((4, 2)), session)


# Groups


def person(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows and groups of 12 persons with 1 to 4 images and one, the last, with ``size``."""
    generator = np.random.default_rng(seed)
    sizes = [*generator.integers(1, 5, 12), size]
    groups = np.repeat(np.arange(13), sizes)
    rows = generator.normal(size=(len(groups), 6))
    rows[groups == 12] = 1000.0 * (1.0 + 0.1 * rows[groups == 12])  # all in one direction
    mixed = generator.permutation(len(groups))
    return rows[mixed], groups[mixed]


@pytest.mark.parametrize("size", [1, 7, 200])
@pytest.mark.parametrize("kind", [NoisedSum, NoisedScatter])
def test_a_person_moves_a_statistic_by_at_most_its_sensitivity(session, size, kind):
    rows, groups = person(size)
    mechanism = kind("statistic", 1.0, 1.5, segments=3)

    def contribution(rows, labels):
        return rows, np.arange(len(rows)) % 3

    segments = np.arange(len(rows)) % 3
    released = []
    for kept in (groups >= 0, groups < 12):
        # The other images keep their segments.
        units = PrivateUnits(np.column_stack([rows, segments])[kept], None, groups[kept])
        released.append(
            mechanism.release(units, lambda r, _: (r[:, :6], r[:, 6].astype(int)), session)
        )
    change = np.linalg.norm(released[0] - released[1])
    assert change <= mechanism.sensitivity
    assert change >= 0.5 * mechanism.sensitivity


def gradient_is_mean_row(images: int):
    def unit_gradients(rows, labels):
        part = rows.reshape(-1, images, rows.shape[1]).mean(dim=1)
        return part.norm(dim=1), {"weight": part}

    return unit_gradients


@pytest.mark.parametrize("size", [1, 7, 200])
@pytest.mark.parametrize("images", [1, 4, 64])
def test_a_person_moves_a_step_by_at_most_the_clip_norm(session, size, images):
    rows, groups = person(size)
    mechanism = DpSgdStep(1.0, 1.0, 0.7, 1.0, 4, images)
    released = []
    for kept in (groups >= 0, groups < 12):
        units = PrivateUnits(torch.from_numpy(rows[kept]), None, groups[kept])
        # The draw of images is keyed by the microbatch: with all units taken and the person last,
        # the others' images are drawn alike with and without the person.
        gradient, seen = mechanism.release(
            units, gradient_is_mean_row(images), {"weight": torch.zeros(6)}, session, 0
        )
        released.append(gradient["weight"].double().numpy())
        assert seen.private_units == len(np.unique(groups[kept]))
    change = np.linalg.norm(released[0] - released[1])
    assert change <= 0.7 * (1 + 1e-5)  # float32 after the noise
    assert change >= 0.65


def test_a_group_weighs_as_much_as_one_image(session):
    rows = np.array([[1.0], [1.0], [1.0], [5.0]])
    units = PrivateUnits(rows, None, np.array([0, 0, 0, 1]))
    released = NoisedSum("sum", 1.0, 100.0).release(units, lambda r, _: r, session)
    np.testing.assert_allclose(released, [[6.0]])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 6))
def test_a_units_images_are_its_own_and_none_is_taken_twice_before_all_once(sizes, images):
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    units = PrivateUnits(np.arange(len(groups)), None, groups)
    chosen = np.arange(len(sizes))
    seen = []
    random = np.random.default_rng(1).random
    units._gradients(DOOR, chosen, images, random, lambda rows, _: seen.append(rows))
    for group, rows in enumerate(seen[0].reshape(-1, images)):
        assert set(groups[rows]) == {group}
        times = np.bincount(np.unique(rows, return_counts=True)[1])
        assert len(set(rows)) == min(images, sizes[group])
        assert len(times) - 1 - np.flatnonzero(times)[0] <= 1


def test_every_image_of_a_group_is_drawn_equally_often():
    units = PrivateUnits(np.arange(5), None, np.zeros(5, np.int64))
    generator, counts = np.random.default_rng(0), np.zeros(5)

    def count(rows, labels):
        counts[rows] += 1

    for _ in range(2000):
        units._gradients(DOOR, np.array([0]), 2, generator.random, count)
    np.testing.assert_allclose(counts / 2000, 0.4, atol=0.04)
