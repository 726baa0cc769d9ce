"""Models that come with the program: by name, offline, with their promise."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

import dpdm
from dpdm.errors import RequestError
from dpdm.release import zoo
from dpdm.release.files import find_release
from dpdm.release.seal import check_release

NAMES = zoo.zoo_names()


@pytest.fixture
def own_zoo(make_zoo) -> Path:
    return make_zoo("digits-eps10", {"data": "digits"})


def test_a_model_is_found_by_name(own_zoo):
    assert find_release("zoo:digits-eps10") == own_zoo / "digits-eps10"
    images, labels = dpdm.load("zoo:digits-eps10").sample(20, seed=0)
    assert images.shape == (20, 8, 8, 1)
    assert len(set(labels.tolist())) == 10
    assert zoo.zoo_cards() == {"digits-eps10": {"data": "digits"}}


def test_another_name_is_refused_with_those_there_are(own_zoo):
    with pytest.raises(RequestError, match=r"no such model.*did you mean zoo:digits-eps10\?"):
        find_release("zoo:digits-eps1")
    with pytest.raises(RequestError, match="this version has zoo:digits-eps10"):
        find_release("zoo:")


def test_a_folder_of_that_name_does_not_hide_the_zoo(own_zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(own_zoo / "digits-eps10", tmp_path / "digits-eps10")
    assert find_release("digits-eps10") == Path("digits-eps10")
    assert find_release("zoo:digits-eps10").parent == own_zoo


@pytest.mark.parametrize("name", NAMES)
def test_every_model_keeps_its_promise_and_samples(name):
    folder = find_release(f"zoo:{name}")
    report = check_release(folder)
    assert report.intact
    assert not report.unlisted
    model = dpdm.load(f"zoo:{name}")
    statement, card = model.statement, zoo.zoo_cards()[name]
    assert statement["private"]
    assert "os.urandom" in json.dumps(statement)
    assert statement["epsilon"] == card["epsilon"] <= float(name.rpartition("eps")[2])
    images, labels = model.sample(10, seed=0)
    assert images.shape == (10, 28, 28, 1)
    assert labels.tolist() == list(range(10))
    assert images.std() > 30


@pytest.mark.parametrize("name", NAMES)
def test_no_model_is_large(name):
    files = [path for path in find_release(f"zoo:{name}").iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8 * 2**20


def test_no_two_models_are_the_same():
    weights = [find_release(f"zoo:{name}") / "model.safetensors" for name in NAMES]
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in weights}) == len(NAMES)
