"""The append-only list of mechanisms that ran on a data set, and what they cost together.

One JSON object a line: a header, then a record for every mechanism, on disk before its noise is
drawn. Each line names the SHA-256 of the line before and ends with its own, so that an edited,
reordered, inserted or missing line is found and named. (The chain has no key: it guards against
damage and carelessness, not against someone who rewrites the whole file. A ledger cut short between
two lines is found by who keeps its :attr:`Ledger.head`, as a checkpoint can.)

Interruption. :meth:`Ledger.record` returns after fsync, and noise is drawn after it returns. So a
last line that is torn, as a kill or a power failure leaves it, belongs to a mechanism that never
drew noise and released nothing: opening drops it. A last line that is whole is counted, whether or
not its ``record`` returned: the ledger may overstate what was spent by one record, and never
understates it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import dpdm
from dpdm.errors import DpdmError, RequestError
from dpdm.privacy.accounting import ADJACENCY, Accountant, Event, epsilon, event_from_json

FORMAT = 1

_NO_LINE_BEFORE = "0" * 64
_HASH = b',"hash":"%s"}'
_CHAIN_KEYS = ("sequence", "previous", "hash")
_HASH_SIZE = len(_HASH % (b"0" * 64))


@dataclass
class _Tally:
    """What the records of one (mechanism, event) add up to."""

    count: int
    first: str
    last: str


class Ledger:
    """A ledger: the file, verified, and what its records add up to.

    From :meth:`create` or :meth:`open` it is locked and written to, by one process at a time; from
    :func:`read_ledger` it is as it stood. A context manager; leaving it gives the lock back.
    """

    def __init__(self, path: Path, lines: list[dict[str, Any]]) -> None:
        """Verified lines, header first. Callers use the ways named above."""
        self._path = path
        self._file: int | None = None
        self._size = 0
        self._tallies: dict[tuple[str, Event], _Tally] = {}
        self._uses: set[tuple[str, Event, str]] = set()
        self._repeated = 0
        self._header = lines[0]
        self._head: str = lines[0]["hash"]
        self._hashes = {self._head}
        for line in lines[1:]:
            self._add(line)

    @classmethod
    def create(cls, path: str | Path, *, dataset: str, unit: str, noise_source: str) -> Self:
        """A new ledger with its header on disk, open for writing.

        Args:
            path: the file; its folder exists.
            dataset: the identifier the operator gives the data set, never computed from the data.
            unit: what is protected, such as ``image``.
            noise_source: the description of the run's noise.

        Raises:
            RequestError: the file exists.
            DpdmError: it cannot be written or locked.
        """
        path = Path(path)
        header = {
            "sequence": 0,
            "format": FORMAT,
            "software": f"dpdm {dpdm.__version__}",
            "created": _now(),
            "dataset": dataset,
            "unit": unit,
            "adjacency": ADJACENCY,
            "noise_source": noise_source,
        }
        line = _seal(header, _NO_LINE_BEFORE)
        # Under its name a ledger is locked and has its header: a kill in here leaves none at all.
        draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
        with _opened(draft, path, os.O_CREAT | os.O_EXCL) as file:
            try:
                _append(file, line)
                _move_to_new_name(draft, path)
            finally:
                draft.unlink(missing_ok=True)
            _sync_folder(path.parent)
            ledger = cls(path, _verified(line, path)[0])
            ledger._file, ledger._size = file, len(line)
        return ledger

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """An existing ledger, verified, locked and ready to go on.

        A torn last line is dropped from the file (see the module).

        Raises:
            DpdmError: any other damage, naming the line; another process has it open; no such file.
        """
        path = Path(path)
        with _opened(path, path) as file:
            with open(file, "rb", closefd=False) as stream:
                data = stream.read()
            lines, size = _verified(data, path)
            ledger = cls(path, lines)
            if size < len(data):
                os.ftruncate(file, size)
                os.fsync(file)
            elif not data.endswith(b"\n"):
                _append(file, b"\n")
                size += 1
            ledger._file, ledger._size = file, size
        return ledger

    @property
    def header(self) -> dict[str, Any]:
        """Format, software, time of creation, data set's identifier, unit, adjacency, noise."""
        return {key: self._header[key] for key in self._header if key not in _CHAIN_KEYS}

    @property
    def head(self) -> str:
        """The hash of the last line; see :meth:`require`."""
        return self._head

    def __len__(self) -> int:
        """The number of records, the header not counted."""
        return len(self._hashes) - 1

    def require(self, head: str) -> None:
        """Raises :class:`DpdmError` unless this ledger contains the line with the hash ``head``."""
        if head not in self._hashes:
            raise DpdmError(
                f"{self._path}: does not contain the record it once ended with, so it was cut "
                "short or belongs to another run; restore it from a backup"
            )

    def record(self, mechanism: str, event: Event, /, **params: Any) -> None:
        """Appends one use of the data; when it returns, the record is on disk.

        Call it before drawing the noise. A step that is done again with fresh noise is another use:
        record it again. ``params`` are JSON values such as ``step``, none from private data.

        Raises:
            DpdmError: it could not be written; the mechanism must not run, and the ledger is
                closed.
        """
        if self._file is None:
            raise DpdmError(f"{self._path}: the ledger is not open for writing; open it again")
        content = {
            "sequence": len(self._hashes),
            "time": _now(),
            "mechanism": mechanism,
            "event": event.to_json(),
            "count": 1,
            "params": params,
        }
        line = _seal(content, self._head)
        try:
            _append(self._file, line)
        except OSError as error:
            with contextlib.suppress(OSError):  # what stays is dropped or counted when reopened
                os.ftruncate(self._file, self._size)
            self.close()
            raise DpdmError(
                f"{self._path}: could not be written ({error.strerror}), so nothing was released; "
                "make room or repair the disk, and resume"
            ) from error
        self._size += len(line)
        self._add(json.loads(line))

    def record_once(self, mechanism: str, event: Event, /, **params: Any) -> bool:
        """:meth:`record` unless the same mechanism, event and params are there; whether it was new.

        Only for noise that a step done again draws identically, from a seed and the step's number:
        it releases the identical result, and counts once.
        """
        if (mechanism, event, _dumps(params)) in self._uses:
            return False
        self.record(mechanism, event, **params)
        return True

    def count(self, event: Event) -> int:
        """How often the event ran, under any mechanism's name."""
        return sum(tally.count for (_, known), tally in self._tallies.items() if known == event)

    def counted_events(self) -> list[tuple[str, Event, int]]:
        """(mechanism, event, how often it ran), in the order of first use."""
        return [(name, event, tally.count) for (name, event), tally in self._tallies.items()]

    def epsilon(self, delta: float, accountant: Accountant = "pld") -> float:
        """What all the records spent together; see :func:`dpdm.privacy.accounting.epsilon`."""
        return epsilon(((event, n) for _, event, n in self.counted_events()), delta, accountant)

    def summary(self, delta: float, accountant: Accountant = "pld") -> dict[str, Any]:
        """The ledger as ``dpdm privacy ledger --json`` prints it.

        ``repeated`` counts the records of steps that were done before, after an interruption; each
        is in ``epsilon`` too. ``epsilon`` is None where no finite one can be shown.
        """
        spent = self.epsilon(delta, accountant)
        return self.header | {
            "records": len(self),
            "repeated": self._repeated,
            "mechanisms": [
                {
                    "name": name,
                    "event": event.to_json(),
                    "count": tally.count,
                    "first": tally.first,
                    "last": tally.last,
                }
                for (name, event), tally in self._tallies.items()
            ],
            "epsilon": spent if spent < float("inf") else None,
            "delta": delta,
            "accountant": accountant,
            "head": self._head,
        }

    def close(self) -> None:
        """Ends writing and gives the lock back; what was read stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, line: dict[str, Any]) -> None:
        try:
            name, event, count = line["mechanism"], event_from_json(line["event"]), line["count"]
            use, time = (name, event, _dumps(line["params"])), line["time"]
            if not isinstance(name, str) or type(count) is not int or count < 1:
                raise ValueError(name, count)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DpdmError(
                f"{self._path}, line {line['sequence'] + 1}: this version of dpdm cannot read the "
                f"record; use {self._header.get('software')} or newer"
            ) from error
        tally = self._tallies.setdefault((name, event), _Tally(0, time, time))
        tally.count += count
        tally.last = time
        self._repeated += use in self._uses
        self._uses.add(use)
        self._head = line["hash"]
        self._hashes.add(self._head)


def read_ledger(path: str | Path) -> Ledger:
    """The ledger as it stands, verified, not locked and not to be written to.

    Raises :class:`DpdmError` naming the line of any damage but a torn last line, which is left out.
    """
    path = Path(path)
    with _failing_clearly(path):
        data = path.read_bytes()
    return Ledger(path, _verified(data, path)[0])


def _seal(content: dict[str, Any], previous: str) -> bytes:
    """A line: the JSON of content and ``previous``, with the hash of that JSON as last entry."""
    body = _dumps(content | {"previous": previous}).encode()
    return body[:-1] + _HASH % hashlib.sha256(body).hexdigest().encode() + b"\n"


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _verified(data: bytes, path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a ledger, and where they end; DpdmError names the first damaged one."""
    texts = data.split(b"\n")
    ends = texts[-1] == b"" and len(texts) > 1
    if ends:
        texts.pop()
    lines: list[dict[str, Any]] = []
    previous, size = _NO_LINE_BEFORE, 0
    for number, text in enumerate(texts, start=1):
        if number == len(texts) > 1 and _is_torn(text, ends):
            break
        lines.append(_verified_line(text, number, previous, path))
        previous = lines[-1]["hash"]
        size += len(text) + 1
    found = lines[0].get("format")
    if found != FORMAT:
        raise DpdmError(
            f"{path}, line 1: ledger format {found!r}, but this version of dpdm reads {FORMAT}; "
            f"use {lines[0].get('software', 'the version that wrote it')} or newer"
        )
    return lines, min(size, len(data))


def _is_torn(last: bytes, ends: bool) -> bool:
    """Whether the last line is what an interrupted append leaves: a beginning, or pages of zeros.

    Damage to a line that was on disk before is something else: that line ends, or is whole JSON.
    """
    if b"\0" in last or ends:
        return b"\0" in last
    try:
        json.loads(last)
    except ValueError:
        return True
    return False


def _verified_line(text: bytes, number: int, previous: str, path: Path) -> dict[str, Any]:
    def damaged(how: str) -> DpdmError:
        return DpdmError(
            f"{path}, line {number}: {how}; a damaged ledger cannot say what was spent: restore it "
            "from a backup"
        )

    try:
        line: dict[str, Any] = json.loads(text)
        sequence, link = line["sequence"], line["previous"]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged("not a line of a ledger") from error
    hashed = hashlib.sha256(text[:-_HASH_SIZE] + b"}").hexdigest().encode()
    if text[-_HASH_SIZE:] != _HASH % hashed:
        raise damaged("changed after it was written")
    if sequence != number - 1 or link != previous:
        raise damaged("does not follow the line before; lines are missing, added or out of order")
    return line


def _append(file: int, data: bytes) -> None:
    """Writes all of data at the end and waits until it is on disk."""
    while data:
        data = data[os.write(file, data) :]
    os.fsync(file)


def _move_to_new_name(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)  # unlike a renaming, refuses to replace
    except OSError as error:
        if path.exists():
            raise RequestError(
                f"{path}: exists already; resume its run, or choose another file"
            ) from error
        draft.rename(path)  # a file system without links


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _opened(name: Path, path: Path, flags: int = 0) -> Iterator[int]:
    """The file ``name`` open for appending and locked; closed again only where the block fails."""
    with _failing_clearly(path):
        file = os.open(name, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
        except BaseException:
            os.close(file)
            raise


@contextmanager
def _failing_clearly(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why, advice = error.strerror, "check the folder and its permissions"
        if isinstance(error, BlockingIOError):
            why, advice = "another process has it open", "wait until that run ends, or stop it"
        elif isinstance(error, FileNotFoundError):
            advice = "check the path; a lost ledger has to come from a backup"
        elif error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            advice = "the file system cannot lock files: put the run on a local disk"
        raise DpdmError(f"{path}: cannot use the ledger ({why}); {advice}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
