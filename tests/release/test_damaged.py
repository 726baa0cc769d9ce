"""A release whose files are damaged, and requests that no release can serve: one clear error."""

from __future__ import annotations

import shutil

import pytest
import yaml

import dpdm
from dpdm.errors import DpdmError, RequestError
from dpdm.release.files import find_release, read_json, write_bytes

ZOO = "mnist-eps0.2"


@pytest.fixture
def release(tmp_path):
    return shutil.copytree(find_release(f"zoo:{ZOO}"), tmp_path / "release")


@pytest.mark.parametrize(
    "change",
    [
        {"image": {"height": 28, "width": 28}},
        {"image": {"channels": 1, "height": "28", "width": 28}},
        {"image": {"channels": 1, "height": 0, "width": 28}},
        {"image": [1, 28, 28]},
        {"classes": None},
        {"classes": [0, 1]},
        {"config": None},
    ],
)
def test_a_description_that_is_not_as_it_was_written_says_so(release, change):
    path = release / "model.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(DpdmError, match=r"model\.yaml: damaged"):
        dpdm.load(release)


def test_a_statement_that_is_no_object_says_so(release):
    (release / "privacy.json").write_text("[1, 2]")
    with pytest.raises(DpdmError, match=r"privacy\.json: damaged, no JSON object"):
        dpdm.load(release)


@pytest.mark.parametrize("seed", [-1, 2**63])
@pytest.mark.parametrize("labels", ["uniform", "histogram"])
def test_a_seed_that_is_none_is_refused(seed, labels):
    with pytest.raises(RequestError, match="--seed"):
        dpdm.load(f"zoo:{ZOO}").sample(1, seed=seed, labels=labels)


@pytest.mark.parametrize("labels", [[2**70], ["cat"]])
def test_labels_that_are_no_class_numbers_are_refused(labels):
    with pytest.raises(RequestError, match="labels"):
        dpdm.load(f"zoo:{ZOO}").sample(1, labels=labels)


def test_a_place_below_a_file_says_so(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DpdmError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "x.json", b"{}")
    assert read_json(tmp_path / "none.json") is None
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"batch_size": 0}, "--batch-size 0"),
        ({"guidance": -1.0}, "--guidance -1"),
        ({"guidance": float("nan")}, "--guidance nan"),
        ({"device": "tpu"}, "device tpu"),
        ({"device": "meta"}, "device meta"),
    ],
)
def test_settings_that_no_sampling_has_are_refused(how, says):
    with pytest.raises(RequestError, match=says):
        dpdm.load(f"zoo:{ZOO}").sample(1, **how)
