"""Whether a release's files are those that its statement was made for.

``privacy.json`` holds ``files``, the SHA-256 of every other file of the release, and ``seal``, the
SHA-256 of the statement itself without ``seal``, in canonical form. So a file that was swapped,
edited or lost is found and named, and so is an edited statement.

There is no key in it: the seal guards against mistakes and against whoever changes some files, not
against whoever rewrites all of them and the seal. That is found by comparing the seal with one that
was received in another way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpdm.errors import DpdmError
from dpdm.release.files import RELEASE_FILES, STATEMENT, read_json, write_text


@dataclass(frozen=True)
class SealReport:
    """What a release looks like beside its seal; names are paths inside the release.

    Attributes:
        seal: as ``privacy.json`` gives it, None in a release that was never sealed.
        statement_changed: whether ``privacy.json`` is not as it was sealed.
        changed: files with other contents than were sealed.
        missing: files that were sealed and are not there.
        unlisted: files that are there and were not sealed: this statement says nothing about them.
    """

    seal: str | None
    statement_changed: bool
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    unlisted: tuple[str, ...]

    @property
    def sealed(self) -> bool:
        """Whether anything vouches for the files."""
        return self.seal is not None or self.statement_changed

    @property
    def intact(self) -> bool:
        """Whether the release was sealed, and statement and files are still what was sealed."""
        return self.sealed and not (self.statement_changed or self.changed or self.missing)

    @property
    def problem(self) -> str:
        """What is wrong, in one sentence that names every file; empty where nothing is."""
        if not self.sealed:
            return (
                "nothing vouches for the files: this statement was never sealed with their hashes"
            )
        parts = []
        if self.statement_changed:
            parts.append(f"the statement itself ({STATEMENT}) was edited")
        if self.changed:
            parts.append(f"{_these(self.changed)} changed")
        if self.missing:
            parts.append(f"{_these(self.missing)} removed")
        return f"{' and '.join(parts)} after the release was sealed" if parts else ""


def seal_release(folder: Path, written: Collection[str] = ()) -> str:
    """Seals a release: writes hashes of its files and the seal into ``privacy.json``, atomically.

    What was sealed before and is not in ``written`` must be as it was: to seal again after a new
    report does not vouch for weights that someone swapped in between. Files that are none of
    ``RELEASE_FILES`` are not sealed.

    Args:
        folder: the release, with its ``privacy.json``.
        written: names of the files that the program has just written again.

    Returns:
        The seal, 64 hexadecimal digits.

    Raises:
        DpdmError: no or a damaged ``privacy.json``; a sealed file was changed or removed, or the
            statement edited.
    """
    statement = _read(folder)
    if statement is None:
        raise DpdmError(f"{folder}: holds no {STATEMENT} to seal; finish the run with --resume")
    report = _compare(folder, statement)
    lost = [name for name in (*report.changed, *report.missing) if name not in written]
    if lost or report.statement_changed:
        what = "the statement was edited" if not lost else f"{_these(lost)} changed or removed"
        raise DpdmError(
            f"{folder}: {what} after the release was sealed, so it is not sealed again; restore "
            "the release from a copy"
        )
    names = sorted(set(RELEASE_FILES) - {STATEMENT})
    statement["files"] = {name: _hash(folder / name) for name in names if (folder / name).is_file()}
    statement["seal"] = _seal(statement)
    write_text(folder / STATEMENT, json.dumps(statement, indent=2) + "\n")
    return str(statement["seal"])


def check_release(folder: Path) -> SealReport:
    """Compares a release with its seal; nothing is written.

    Raises:
        DpdmError: ``privacy.json`` is damaged, or a file cannot be read.
    """
    return _compare(folder, _read(folder) or {})


def _compare(folder: Path, statement: dict[str, Any]) -> SealReport:
    files, seal = statement.get("files"), statement.get("seal")
    sealed = "files" in statement or "seal" in statement
    well_formed = isinstance(files, dict) and isinstance(seal, str)
    listed: dict[str, Any] = files if isinstance(files, dict) else {}
    present = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    } - {STATEMENT}
    return SealReport(
        seal=seal if isinstance(seal, str) else None,
        statement_changed=sealed and not (well_formed and seal == _seal(statement)),
        changed=tuple(n for n in sorted(present & set(listed)) if _hash(folder / n) != listed[n]),
        missing=tuple(sorted(set(listed) - present)),
        unlisted=tuple(sorted(present - set(listed))) if sealed else (),
    )


def _read(folder: Path) -> dict[str, Any] | None:
    value = read_json(folder / STATEMENT)
    if value is not None and not _is_json(value):
        raise DpdmError(f"{folder / STATEMENT}: damaged, not a statement")
    return value


def _is_json(value: dict[str, Any]) -> bool:
    """Python also reads NaN and infinities, which no statement holds."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _seal(statement: dict[str, Any]) -> str:
    """SHA-256 over the JSON without ``seal``: keys sorted, no spaces, ASCII, Python's floats."""
    content = {key: value for key, value in statement.items() if key != "seal"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DpdmError(f"{path}: cannot be read ({error.strerror})") from None


def _these(names: Collection[str]) -> str:
    return f"{', '.join(names)} {'was' if len(names) == 1 else 'were'}"
