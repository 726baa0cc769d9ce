"""The seal of a release: whatever is swapped, edited, lost or added is named."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from dpdm.errors import DpdmError
from dpdm.release.seal import check_release, seal_release

FILES = ("model.safetensors", "model.yaml", "PRIVACY.md", "samples.npz", "report.html")


@pytest.fixture
def release(tmp_path) -> Path:
    """A release as a run writes it, not sealed."""
    for name in FILES:
        (tmp_path / name).write_bytes(f"content of {name}".encode())
    statement = {"private": True, "epsilon": 9.99999999999, "delta": 1e-5, "unit": "café"}
    (tmp_path / "privacy.json").write_text(json.dumps(statement), "utf-8")
    return tmp_path


@pytest.fixture
def sealed(release) -> Path:
    seal_release(release)
    return release


def stated(folder: Path) -> dict:
    return json.loads((folder / "privacy.json").read_text("utf-8"))


def edit(folder: Path, **changes: object) -> None:
    (folder / "privacy.json").write_text(json.dumps(stated(folder) | changes), "utf-8")


def test_a_sealed_release_is_intact(sealed):
    report = check_release(sealed)
    assert report.intact
    assert report.sealed
    assert report.problem == ""
    assert (report.changed, report.missing, report.unlisted) == ((), (), ())


def test_every_file_but_the_statement_is_listed_by_its_sha256(sealed):
    assert stated(sealed)["files"] == {
        name: hashlib.sha256((sealed / name).read_bytes()).hexdigest() for name in FILES
    }


def test_the_seal_can_be_computed_with_nothing_but_json_and_sha256(sealed):
    statement = stated(sealed)
    seal = statement.pop("seal")
    canonical = json.dumps(statement, sort_keys=True, separators=(",", ":"))
    assert seal == hashlib.sha256(canonical.encode()).hexdigest()
    assert check_release(sealed).seal == seal


def test_sealing_keeps_what_the_statement_says_and_is_the_same_twice(release):
    before = stated(release)
    seal = seal_release(release)
    assert {key: stated(release)[key] for key in before} == before
    assert seal_release(release) == seal
    assert re.fullmatch("[0-9a-f]{64}", seal)


@pytest.mark.parametrize("name", FILES)
def test_a_swapped_file_is_named(sealed, name):
    size = (sealed / name).stat().st_size
    (sealed / name).write_bytes(b"x" * size)
    report = check_release(sealed)
    assert not report.intact
    assert report.changed == (name,)
    assert report.problem == f"{name} was changed after the release was sealed"


def test_one_flipped_bit_is_found(sealed):
    path = sealed / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    assert check_release(sealed).changed == ("model.safetensors",)


def test_a_file_that_is_gone_is_named(sealed):
    (sealed / "samples.npz").unlink()
    report = check_release(sealed)
    assert report.missing == ("samples.npz",)
    assert report.problem == "samples.npz was removed after the release was sealed"


def test_two_files_that_changed_places_are_both_named(sealed):
    first, second = sealed / "model.yaml", sealed / "model.safetensors"
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    assert check_release(sealed).changed == ("model.safetensors", "model.yaml")
    assert "were changed" in check_release(sealed).problem


@pytest.mark.parametrize("name", ["notes.txt", "more/images.npz", ".hidden"])
def test_a_file_that_was_not_sealed_is_listed_and_breaks_nothing(sealed, name):
    (sealed / name).parent.mkdir(exist_ok=True)
    (sealed / name).write_text("x")
    report = check_release(sealed)
    assert report.intact
    assert report.unlisted == (name,)


def test_files_that_are_not_of_a_release_are_never_sealed(release):
    (release / "notes.txt").write_text("the accuracy on real data")
    seal_release(release)
    assert "notes.txt" not in stated(release)["files"]


@pytest.mark.parametrize(
    "change",
    [{"epsilon": 0.1}, {"private": False}, {"note": ""}, {"files": {}}, {"files": 3}, {"seal": 0}],
)
def test_an_edited_statement_is_found(sealed, change):
    edit(sealed, **change)
    report = check_release(sealed)
    assert report.statement_changed
    assert not report.intact
    assert report.problem.startswith("the statement itself (privacy.json) was edited")


@pytest.mark.parametrize("key", ["seal", "files", "epsilon"])
def test_a_statement_with_a_part_cut_out_is_found(sealed, key):
    statement = stated(sealed)
    del statement[key]
    (sealed / "privacy.json").write_text(json.dumps(statement))
    assert check_release(sealed).statement_changed


def test_a_hash_made_to_fit_a_swapped_file_breaks_the_seal(sealed):
    (sealed / "model.safetensors").write_bytes(b"other weights")
    files = stated(sealed)["files"]
    files["model.safetensors"] = hashlib.sha256(b"other weights").hexdigest()
    edit(sealed, files=files)
    report = check_release(sealed)
    assert report.changed == ()
    assert report.statement_changed


def test_the_order_and_layout_of_the_json_do_not_matter(sealed):
    statement = dict(reversed(stated(sealed).items()))
    (sealed / "privacy.json").write_text(json.dumps(statement, indent=7))
    assert check_release(sealed).intact


def test_nothing_vouches_for_a_release_that_was_never_sealed(release):
    report = check_release(release)
    assert not report.sealed
    assert not report.intact
    assert report.seal is None
    assert "nothing vouches for the files" in report.problem


def test_a_new_report_is_sealed_in(sealed):
    before = stated(sealed)["seal"]
    (sealed / "report.html").write_text("a new report")
    seal_release(sealed, ["report.html"])
    assert check_release(sealed).intact
    assert stated(sealed)["seal"] != before


def test_a_file_written_after_the_first_seal_is_added_to_it(release):
    (release / "samples.npz").unlink()
    seal_release(release)
    (release / "samples.npz").write_bytes(b"samples")
    assert check_release(release).unlisted == ("samples.npz",)
    seal_release(release)
    assert check_release(release).unlisted == ()


def test_sealing_again_does_not_vouch_for_weights_that_were_swapped_in_between(sealed):
    (sealed / "model.safetensors").write_bytes(b"other weights")
    (sealed / "report.html").write_text("a new report")
    before = (sealed / "privacy.json").read_bytes()
    with pytest.raises(DpdmError, match=r"model\.safetensors was changed or removed"):
        seal_release(sealed, ["report.html"])
    assert (sealed / "privacy.json").read_bytes() == before


def test_sealing_again_does_not_vouch_for_an_edited_statement(sealed):
    edit(sealed, epsilon=0.1)
    with pytest.raises(DpdmError, match="statement was edited"):
        seal_release(sealed, ["report.html"])


@pytest.mark.parametrize("content", ["{", "[]", '"x"', '{"epsilon": NaN, "files": {}}', ""])
def test_a_damaged_statement_is_an_error_in_one_line(sealed, content):
    (sealed / "privacy.json").write_text(content)
    for act in (check_release, seal_release):
        with pytest.raises(DpdmError, match=r"privacy\.json: damaged") as caught:
            act(sealed)
        assert "\n" not in str(caught.value)


def test_without_a_statement_there_is_nothing_to_seal(tmp_path):
    assert not check_release(tmp_path).sealed
    with pytest.raises(DpdmError, match=r"no privacy\.json"):
        seal_release(tmp_path)


def test_an_interrupted_write_leaves_the_old_statement(sealed, monkeypatch):
    before = (sealed / "privacy.json").read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    (sealed / "report.html").write_text("a new report")
    with pytest.raises(DpdmError, match="No space left"):
        seal_release(sealed, ["report.html"])
    assert (sealed / "privacy.json").read_bytes() == before
    assert not list(sealed.glob(".*.part"))
