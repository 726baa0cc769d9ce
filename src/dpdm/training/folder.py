"""A run on disk: ``release/`` may leave the building, ``private/`` stays. No overwriting."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open

from dpdm.config import Config, load_config, to_yaml
from dpdm.errors import DpdmError, RequestError
from dpdm.release.files import DRAWN, read_json, write_text


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def release(self) -> Path:
        """What the guarantee covers."""
        return self.path / "release"

    @property
    def private(self) -> Path:
        """What was derived from the data without noise."""
        return self.path / "private"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, the fitted prior, and the weights after warm-up."""
        return self.private / "checkpoints"

    @property
    def ledger(self) -> Path:
        """The append-only list of mechanisms that ran."""
        return self.private / "ledger.jsonl"

    @property
    def config(self) -> Path:
        """The whole configuration."""
        return self.private / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per step."""
        return self.private / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        """What the samples are worth."""
        return self.private / "evaluation.json"

    @property
    def stages(self) -> Path:
        """Samples of earlier stages."""
        return self.private / "stages"

    @property
    def state(self) -> Path:
        """Facts about the run's progress and cost."""
        return self.private / "state.json"

    @property
    def prior(self) -> Path:
        """The fitted prior: released through mechanisms, kept so that it is fitted once."""
        return self.checkpoints / "prior.safetensors"

    @property
    def histogram(self) -> Path:
        """The noised class histogram, kept so that it is released once."""
        return self.checkpoints / "histogram.safetensors"

    @property
    def labeller(self) -> Path:
        """The labeller, trained so far."""
        return self.checkpoints / "labeller.safetensors"

    @property
    def warmed_up(self) -> Path:
        """Weights after warm-up."""
        return self.checkpoints / "warmed-up.safetensors"

    def ledger_heads(self) -> dict[Path, str]:
        """The hash with which the ledger ended when training wrote each of its files.

        A damaged file is left out: who resumes the run is told of it.
        """
        found = dict[Path, str]()
        for path in sorted(self.checkpoints.glob("*.safetensors")):
            try:
                with safe_open(path, framework="np") as file:
                    about = file.metadata() or {}
                about |= json.loads(about.get("checkpoint", "{}"))
            except (SafetensorError, OSError, ValueError):
                continue
            if head := about.get("ledger_head"):
                found[path] = head
        return found

    def read_state(self) -> dict[str, Any]:
        """``state.json``, or nothing."""
        return read_json(self.state) or {}

    def update_state(self, **facts: Any) -> None:
        """Adds facts to ``state.json``, atomically."""
        write_text(self.state, json.dumps(self.read_state() | facts, indent=1) + "\n")

    def drop_drawn(self) -> None:
        """Takes away what was drawn from a model, or settings, that is not the release's any more.

        Samples, reports and stages can be made again. The evaluation becomes
        ``evaluation-before.json``.
        """
        for name in DRAWN:
            (self.release / name).unlink(missing_ok=True)
        (self.private / "report.html").unlink(missing_ok=True)
        shutil.rmtree(self.stages, ignore_errors=True)
        if self.evaluation.is_file():
            self.evaluation.replace(self.private / "evaluation-before.json")

    @property
    def finished(self) -> bool:
        """Whether training has ended and the release's model is written."""
        return bool(self.read_state().get("trained"))

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Adds one line to ``metrics.jsonl``, apart from what a kill left of another.

        Raises:
            DpdmError: the file cannot be written.
        """
        try:
            with self.metrics.open("a+b") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    torn = file.read() != b"\n"
                    file.write(b"\n" * torn)
                file.write(json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise DpdmError(
                f"{self.metrics}: cannot be written ({error.strerror}); make room, then "
                "--resume goes on"
            ) from None

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every step once, the last time it was done, in order; a torn last line is passed over."""
        if not self.metrics.is_file():
            return []
        steps: dict[tuple[bool, int], dict[str, Any]] = {}
        for line in self.metrics.read_text("utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            steps[record["phase"] != "warm-up", record["step"]] = record
        return [steps[key] for key in sorted(steps)]


class RunLock:
    """One process at a time trains in a folder: a lock on the folder itself, so that it goes with
    it where it is moved aside. Where there is no folder yet there is nothing to lock.

    Raises:
        RequestError: another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = None
        self.move(path)

    def move(self, path: Path) -> None:
        """Lets go, and locks another folder."""
        self._release()
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            raise RequestError(
                f"--out {path}: another process trains there; wait for it or stop it, or give "
                "another --out"
            ) from None
        except OSError:  # a file system that has no locks
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._release()

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_run_folder(
    path: Path, config: Config, data: dict[str, Any], *, resume: bool, force: bool
) -> RunFolder:
    """A new folder, or an existing one under the rules of ``--resume`` and ``--force``.

    ``data`` describes the data set (name, shape, classes, size): a run goes on with its own data.
    ``force`` moves an existing run aside (``NAME.previous-1``): its ledger says what was spent, and
    that must not be lost.

    Raises:
        RequestError: the folder exists and neither was asked for, or it holds something else than
            a run; both were asked for; nothing to resume; a resumed run with another configuration
            or other data, naming what differs.
    """
    folder = RunFolder(path)
    if resume and force:
        raise RequestError(
            "--resume goes on with a run and --force starts anew: give one of the two"
        )
    if path.exists() and not path.is_dir():
        raise RequestError(f"--out {path}: is a file; give a folder that does not exist yet")
    occupied = path.is_dir() and any(path.iterdir())
    if occupied and not _is_run(folder):
        raise RequestError(
            f"--out {path}: holds other files; give a folder that does not exist yet"
        )
    if occupied and force:
        # The whole path: "." has no name, and is the folder that was moved ever after.
        path = path.resolve()
        folder = RunFolder(path)
        path.rename(place_aside(path))
        occupied = False
    if occupied and not resume:
        report = folder.release / "report.html"
        done = f"its report is {report}; " if report.is_file() else ""
        raise RequestError(
            f"--out {path}: a run is already there; {done}--resume goes on "
            "with it, --force starts anew"
        )
    if occupied and folder.config.is_file():
        _same_data(folder, data)
        _same_config(folder, config)
        return folder
    if resume and not occupied:
        raise RequestError(
            f"--out {path}: there is no run to resume; leave --resume away to start one"
        )
    try:
        for part in (folder.release, folder.checkpoints):
            part.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DpdmError(
            f"--out {path}: cannot be made ({error.strerror}); give a folder that may be written"
        ) from None
    write_text(folder.config, to_yaml(config))
    folder.update_state(data=data, run=f"{config.name}-{os.urandom(4).hex()}")
    write_text(
        folder.private / "README.txt",
        "Derived from private data without noise: not covered by the guarantee. Do not share.\n",
    )
    return folder


def place_aside(path: Path) -> Path:
    """Where a run moves to make room for a new one: the first free ``NAME.previous-N``."""
    number = 1
    while (aside := path.with_name(f"{path.name}.previous-{number}")).exists():
        number += 1
    return aside


def _is_run(folder: RunFolder) -> bool:
    """Whether what lies there is a run, or the empty folders of one that was stopped at once."""
    if folder.config.is_file() or folder.checkpoints.is_dir():
        return True
    return all(entry.is_dir() for entry in folder.path.rglob("*"))


_MAY_CHANGE = ("max_steps", "checkpoint_every", "microbatch")


def _same_data(folder: RunFolder, data: dict[str, Any]) -> None:
    before = folder.read_state().get("data", {})
    for key, value in before.items():
        if data.get(key) != value:
            if key == "sha256":
                raise RequestError(
                    f"--resume: the images, labels or groups are not those that the run in "
                    f"{folder.path} was started on; give the same --data, or another --out for a "
                    "new run"
                )
            raise RequestError(
                f"--resume: the run in {folder.path} was started on data with {key} {value!r}, "
                f"not {data.get(key)!r}; give the same --data, or another --out for a new run"
            )


def _same_config(folder: RunFolder, config: Config) -> None:
    """A resumed run keeps its settings; only how far and in what pieces it runs may change."""
    before = load_config(folder.config)
    for section in type(config).model_fields:
        if section in ("sampling", "evaluation"):
            continue
        old, new = getattr(before, section), getattr(config, section)
        if not hasattr(old, "model_dump"):
            continue
        for key, value in old.model_dump().items():
            changed = new.model_dump()[key]
            if changed != value and not (section == "training" and key in _MAY_CHANGE):
                raise RequestError(
                    f"--resume: {section}.{key}={changed!r}, but the run in {folder.path} was "
                    f"started with {value!r}; use that value, or another --out for a new run"
                )
    write_text(folder.config, to_yaml(config))


def shared_ledger(config: Config) -> Path | None:
    """The whole path of the ledger that a run shares with others, or None where it has its own."""
    named = config.privacy.ledger
    return None if named is None else Path(named).expanduser().resolve()


def ledger_path(folder: RunFolder, config: Config) -> Path:
    """Where a run's spending is written down: its own ledger, or the shared one it names."""
    return shared_ledger(config) or folder.ledger
