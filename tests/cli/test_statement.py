"""``dpdm privacy statement``: prints the promise, and names the files that it no longer is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dpdm.promise import build_statement
from dpdm.promise.planning import gaussian
from dpdm.release.seal import seal_release

STATED = build_statement(
    [("class counts", gaussian(20), 1)],
    delta=1e-5,
    accountant="pld",
    unit="group",
    noise_source="the operating system",
    enabled=True,
    seeded=False,
    planned_epsilon=1.0,
    image_shape=(8, 8, 1),
    classes=10,
    public_size=1000,
    public_size_declared=True,
    runs=2,
)


@pytest.fixture
def run(tmp_path) -> Path:
    """A run's folder with a sealed release: the statement is real, the other files are not."""
    release = tmp_path / "run" / "release"
    release.mkdir(parents=True)
    for name in ("model.safetensors", "model.yaml", "PRIVACY.md"):
        (release / name).write_text(name)
    (release / "privacy.json").write_text(json.dumps(STATED))
    seal_release(release)
    return release.parent


@pytest.fixture
def statement(run, dpdm) -> Callable[..., tuple[int, str, str]]:
    """``statement(*options)`` -> exit status, standard output, standard error."""
    return partial(dpdm, "privacy", "statement", run)


def test_of_an_intact_release_it_prints_the_promise_and_the_seal(run, statement):
    seal = json.loads((run / "release" / "privacy.json").read_text())["seal"]
    status, out, err = statement()
    assert (status, err) == (0, "")
    assert out.startswith("This release is differentially private: epsilon = ")
    assert f"Seal: {seal}" in out


def test_the_json_of_an_intact_release_is_the_statement_and_says_so(statement):
    status, out, err = statement("--json")
    printed = json.loads(out)
    assert (status, err) == (0, "")
    assert printed["files_intact"] is True
    assert printed["changed"] == printed["missing"] == printed["unlisted"] == []
    assert STATED.items() <= printed.items()


def test_a_swapped_weight_file_is_named_first_and_the_status_is_1(run, statement):
    (run / "release" / "model.safetensors").write_text("other weights")
    status, out, _ = statement()
    assert status == 1
    assert out.splitlines()[0] == (
        "NOT INTACT: model.safetensors was changed after the release was sealed"
    )
    assert "differentially private" in out
    assert "Seal:" not in out
    status, out, _ = statement("--json")
    assert status == 1
    assert json.loads(out)["files_intact"] is False
    assert json.loads(out)["changed"] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["PRIVACY.md", "model.yaml"])
def test_a_missing_file_is_named(run, statement, name):
    (run / "release" / name).unlink()
    status, out, _ = statement()
    assert status == 1
    assert out.splitlines()[0] == f"NOT INTACT: {name} was removed after the release was sealed"
    assert json.loads(statement("--json")[1])["missing"] == [name]


def test_an_edited_statement_is_not_repeated(run, statement):
    path = run / "release" / "privacy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"epsilon": 0.001}))
    status, out, _ = statement()
    assert status == 1
    assert "the statement itself (privacy.json) was edited" in out.splitlines()[0]
    assert "0.001" not in out
    status, out, _ = statement("--json")
    assert status == 1
    assert json.loads(out)["changed"] == ["privacy.json"]


def test_a_file_that_was_not_sealed_is_a_warning(run, statement):
    (run / "release" / "more.npz").write_text("x")
    status, out, err = statement()
    assert status == 0
    assert "Seal:" in out
    assert err == "warning: not covered by this statement: more.npz\n"
    assert json.loads(statement("--json")[1])["unlisted"] == ["more.npz"]


def test_a_file_that_is_no_statement_is_refused_in_one_line(run, statement):
    for content in ("{}", '{"private": true}', '{"private": false}'):
        (run / "release" / "privacy.json").write_text(content)
        status, _, err = statement()
        assert status == 1
        assert err.startswith("error: ")
        assert "not a statement" in err


def test_a_release_that_was_never_sealed_is_stated_with_a_warning(run, statement):
    (run / "release" / "privacy.json").write_text(json.dumps(STATED))
    status, out, err = statement()
    assert status == 0
    assert out.startswith("This release is differentially private")
    assert err.startswith("warning: nothing vouches for the files")
    assert json.loads(statement("--json")[1])["files_intact"] is None
