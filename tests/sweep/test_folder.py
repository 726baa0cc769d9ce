"""A sweep's folder: what a further call must agree with, and what must not get lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpdm.data import Dataset, open_dataset
from dpdm.errors import DpdmError, RequestError
from dpdm.sweep.conduct import Options, Prepared, conduct, prepare
from dpdm.sweep.folder import SweepFolder, begin
from dpdm.sweep.grid import Grid, parse_vary

SETTINGS = ("prior.enabled=false", "training.least_signal=0", "training.steps=2")
DIGITS = open_dataset("digits")
TEST = open_dataset("digits@test")


def asked(
    out: Path,
    *vary: str,
    settings: tuple[str, ...] = (),
    data: Dataset = DIGITS,
    test: Dataset = TEST,
) -> Prepared:
    grid = Grid("digits", (*SETTINGS, *settings), parse_vary(vary), 1)
    return prepare(grid, out, data, test, "pixels")


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """A sweep of two values of ``views.count`` that has begun."""
    prepared = asked(tmp_path / "sweep", "views.count=1,2")
    begin(prepared.folder, prepared.about)
    return prepared.folder


def change(folder: SweepFolder, **values: Any) -> None:
    """Another ``sweep.yaml``; a part that becomes None is taken out."""
    about = yaml.safe_load(folder.about.read_text()) | values
    folder.about.write_text(yaml.safe_dump({k: v for k, v in about.items() if v is not None}))


def begin_run(folder: SweepFolder, name: str) -> Path:
    path = folder.run(name).config
    path.parent.mkdir(parents=True)
    path.write_text("privacy: {epsilon: 10, delta: 1.0e-4}\n")
    return path


def options() -> Options:
    return Options("digits", "digits@test", 1, "cpu", lambda *_: None, lambda _: None)


def test_a_training_that_has_begun_and_is_gone_is_missed(folder) -> None:
    first, second = (begin_run(folder, name) for name in ("views.count=1_seed=0", "b"))
    folder.remember(["b", "views.count=1_seed=0", "not-begun"])
    assert list(folder.runs()) == ["b", "views.count=1_seed=0"]
    asked(folder.path, "views.count=1,2")
    second.rename(second.with_suffix(".lost"))
    for look in (folder.runs, lambda: asked(folder.path, "views.count=1,2")):
        with pytest.raises(
            DpdmError, match=r"b/private/config\.yaml: missing, .* backup"
        ) as caught:
            look()
        assert "\n" not in str(caught.value)
    begin(folder, asked(folder.path / "other", "views.count=3").about)  # does not forget it
    with pytest.raises(DpdmError, match="missing"):
        folder.runs()
    assert first.is_file()


def test_a_run_that_is_moved_aside_counts_at_its_new_place(folder) -> None:
    begin_run(folder, "a")
    folder.remember(["a"])
    for number in (1, 2):
        assert folder.move_aside("a").name == f"a.previous-{number}"
        begin_run(folder, "a")
    assert list(folder.runs()) == ["a", "a.previous-1", "a.previous-2"]
    folder.move_aside("a")
    (folder.path / "runs" / "a.previous-2").rename(folder.path / "lost")
    with pytest.raises(DpdmError, match=r"a\.previous-2/.*missing"):
        folder.runs()


def test_trainings_of_a_sweep_of_an_older_version_are_listed_when_it_goes_on(
    folder, monkeypatch
) -> None:
    change(folder, begun=None)
    begin_run(folder, "old")

    def one_begins(jobs, parallel, logs, *, tell, done) -> bool:
        names = [job.name for job in jobs]
        tell(names)  # nothing is there yet
        begin_run(folder, names[0])
        tell(names)
        assert listed(folder) == ["old", names[0]]
        return True

    monkeypatch.setattr("dpdm.sweep.conduct.run_jobs", one_begins)
    conduct(asked(folder.path, "views.count=1,2"), options())
    assert listed(folder) == ["old", "views.count=1_seed=0"]


def listed(folder: SweepFolder) -> list[str]:
    found: list[str] = yaml.safe_load(folder.about.read_text())["begun"]
    return found


@pytest.mark.parametrize("what", ["data", "test"])
def test_other_images_or_labels_of_the_same_size_are_noticed(folder, what) -> None:
    same = {"data": DIGITS, "test": TEST}
    for part in ("private_images", "private_labels"):
        other = replace(same[what], **{part: getattr(same[what], part)[::-1].copy()})
        with pytest.raises(RequestError, match=f"labels or groups of {what} are not those"):
            asked(folder.path, "views.count=1", **{what: other})
    with pytest.raises(RequestError, match=f"measured with {what}") as caught:
        asked(folder.path, "views.count=1", **{what: replace(same[what], name="x")})
    assert "sha256" not in str(caught.value)


def test_a_sweep_of_an_older_version_that_knows_no_content_goes_on(folder) -> None:
    about = yaml.safe_load(folder.about.read_text())
    for what in ("data", "test"):
        del about[what]["sha256"]
    folder.about.write_text(yaml.safe_dump(about, sort_keys=False))
    prepared = asked(folder.path, "views.count=1")
    begin(folder, prepared.about)
    assert yaml.safe_load(folder.about.read_text())["data"]["sha256"] == DIGITS.private_hash


def alternatives(**named: dict[str, Any]) -> tuple[str, ...]:
    return (f"sampling.alternatives={json.dumps(named)}",)


def test_named_sampler_settings_may_be_added_and_not_changed(tmp_path) -> None:
    heun, ddim = {"sampler": "heun"}, {"sampler": "ddim"}
    first = asked(tmp_path / "s", "settings=a", settings=alternatives(a=heun))
    begin(first.folder, first.about)
    asked(tmp_path / "s", "settings=a,b", settings=alternatives(a=heun, b=ddim))
    for now, said in (
        ({"a": ddim}, r"sampling\.alternatives\.a\.sampler=ddim, but the sweep there has heun"),
        ({"b": heun}, r"has sampling\.alternatives\.a, which is gone"),
    ):
        with pytest.raises(RequestError, match=said):
            asked(tmp_path / "s", f"settings={min(now)}", settings=alternatives(**now))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"format: 1\n", r"damaged \(values, frechet, data, test, bases\)"),
        (b"\xff\xfe", r"cannot be read \(not UTF-8 text\)"),
        (b"format: 7\n", "not a sweep of this version"),
        (b"[", "not readable as YAML"),
        (
            b"format: 1\nvalues: {a: 1}\nfrechet: x\ndata: {}\ntest: null\nbases: {}\n",
            r"damaged \(values\)",
        ),
    ],
)
def test_a_damaged_sweep_yaml_is_one_clear_line(folder, content, said) -> None:
    folder.about.write_bytes(content)
    with pytest.raises(DpdmError, match=rf"sweep\.yaml: {said}") as caught:
        asked(folder.path, "views.count=1")
    assert "\n" not in str(caught.value)


def test_of_two_sweeps_that_start_at_once_the_second_is_checked_against_the_first(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("dpdm.sweep.conduct.run_jobs", lambda *_, **__: True)
    out = tmp_path / "sweep"
    vary = "views.count=1", "privacy.epsilon=10"
    first, other, turned = (
        asked(out, *vary),
        asked(out, *vary, settings=("training.learning_rate=0.5",)),
        asked(out, *reversed(vary)),
    )
    with first.folder.locked():
        with pytest.raises(RequestError, match="another process is carrying this sweep out"):
            conduct(other, options())
        assert not first.folder.about.exists()  # it has not begun
    conduct(first, options())
    with pytest.raises(RequestError, match=r"training\.learning_rate=0\.5, but the sweep there"):
        conduct(other, options())
    with pytest.raises(RequestError, match="in another order; the same command goes on"):
        conduct(turned, options())
    assert yaml.safe_load(first.folder.about.read_text())["bases"] == first.about["bases"]
    conduct(asked(out, *reversed(vary)), options())


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(DpdmError, match=r"--out .*sweep: cannot be written"),
        SweepFolder(tmp_path / "file" / "sweep").locked(),
    ):
        pass
