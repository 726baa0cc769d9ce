"""A file of JSON lines that only grows, shows whether it was changed, and survives a kill.

Each line holds its number, time, software and content, the SHA-256 of the line before and last its
own, so that an edited, reordered, inserted or missing line is found and named. The chain has no
key: it guards against damage and carelessness, not against someone who writes the whole file anew.
A file cut short between two lines is found by who keeps its :attr:`Chain.head`, as a checkpoint
can.

:meth:`Chain.append` returns after fsync. So a torn last line, as a kill or a power failure leaves
it, is of an ``append`` that never returned, and opening drops it; a whole one is kept. Torn is what
lacks its end and is not complete JSON, zeros after it aside, and what begins with zeros up to a
sector's boundary. Anything else that is not as it was written is damage.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import dpdm
from dpdm.errors import DpdmError, RequestError

_NO_LINE_BEFORE = "0" * 64
_HASH = b',"hash":"%s"}'
_HASH_SIZE = len(_HASH % (b"0" * 64))
_SOFTWARE = f"dpdm {dpdm.__version__}"
_SECTOR = 512  # bytes; what a disk writes at once is a multiple


class Chain:
    """A file and its verified ``lines``, header first, each with what the chain adds (``OWN``).

    From :meth:`create` or :meth:`open` it is locked and appended to, by one process at a time; from
    :meth:`read` it is as it stood.
    """

    OWN = ("sequence", "time", "software", "previous", "hash")

    def __init__(
        self, path: Path, lines: list[dict[str, Any]], file: int | None = None, size: int = 0
    ) -> None:
        """Callers use the ways named above."""
        self.path, self.lines = path, lines
        self._file, self._size = file, size

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any]) -> Self:
        """A new file with its header on disk, open for appending; its folder exists.

        Raises:
            RequestError: the file exists.
            DpdmError: it cannot be written or locked.
        """
        line = _seal(header, 0, _NO_LINE_BEFORE)
        # Under its name the file is locked and has its header: a kill in here leaves none at all.
        draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
        with _opened(draft, path, os.O_CREAT | os.O_EXCL) as file:
            try:
                _write(file, line)
                _move_to_new_name(draft, path)
            finally:
                draft.unlink(missing_ok=True)
            _sync_folder(path.parent)
            return cls(path, [json.loads(line)], file, len(line))

    @classmethod
    def open(cls, path: Path) -> Self:
        """An existing file, verified, locked and ready to go on; a torn last line is dropped.

        Raises :class:`DpdmError`: any other damage, naming the line; another process has it open;
        no such file.
        """
        with _opened(path, path) as file:
            with open(file, "rb", closefd=False) as stream:
                data = stream.read()
            lines, size = _verified(data, path)
            if size < len(data):
                os.ftruncate(file, size)
                os.fsync(file)
            if data[size - 1 : size] != b"\n":
                _write(file, b"\n")
                size += 1
            return cls(path, lines, file, size)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The file as it stands, verified, not locked; a torn last line is left out.

        Raises :class:`DpdmError`: any other damage, naming the line; no such file.
        """
        with _failing_clearly(path):
            data = path.read_bytes()
        return cls(path, _verified(data, path)[0])

    @property
    def head(self) -> str:
        """The hash of the last line."""
        return str(self.lines[-1]["hash"])

    def require(self, head: str) -> None:
        """Raises :class:`DpdmError` unless there is a line with the hash ``head``."""
        if not any(line["hash"] == head for line in self.lines):
            raise DpdmError(
                f"{self.path}: does not contain the line it once ended with, so it was cut short "
                "or belongs to something else; restore it from a backup"
            )

    def append(self, content: Mapping[str, Any]) -> None:
        """Adds a line; it is on disk on return.

        Raises:
            ValueError, TypeError: ``content`` is not JSON.
            DpdmError: it could not be written, and the file is closed; it was not open.
        """
        if self._file is None:
            raise DpdmError(f"{self.path}: not open for writing; open it again")
        line = _seal(content, len(self.lines), self.head)
        try:
            _write(self._file, line)
        except BaseException as error:
            with contextlib.suppress(OSError):  # what stays is dropped or kept when reopened
                os.ftruncate(self._file, self._size)
            self.close()
            if not isinstance(error, OSError):
                raise
            raise DpdmError(
                f"{self.path}: could not be written ({error.strerror}); make room or repair the "
                "disk, and resume"
            ) from error
        self._size += len(line)
        self.lines.append(json.loads(line))

    def close(self) -> None:
        """Ends writing and gives the lock back; what was read stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _seal(content: Mapping[str, Any], sequence: int, previous: str) -> bytes:
    """A line: the JSON of all but its hash, with that JSON's hash as last entry."""
    stamp = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "software": _SOFTWARE}
    whole = {"sequence": sequence, **stamp, **content, "previous": previous}
    body = json.dumps(whole, separators=(",", ":"), allow_nan=False).encode()
    return body[:-1] + _HASH % hashlib.sha256(body).hexdigest().encode() + b"\n"


def _verified(data: bytes, path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines, and where the last one ends; DpdmError names the first damaged one."""
    texts = data.split(b"\n")
    ended = texts[-1] == b"" and len(texts) > 1
    texts = texts[:-1] if ended else [*texts[:-1], texts[-1].rstrip(b"\0")]
    lines: list[dict[str, Any]] = []
    previous, size = _NO_LINE_BEFORE, 0
    for number, text in enumerate(texts, start=1):
        last = number == len(texts)
        if last and number > 1 and _is_torn(text, size, ended):
            break
        lines.append(_verified_line(text, number, previous, path))
        previous = lines[-1]["hash"]
        size += len(text) + (ended or not last)
    return lines, size


def _is_torn(text: bytes, start: int, ended: bool) -> bool:
    """Whether the last line, from byte ``start``, is what an interrupted append leaves."""
    if ended:
        zeros = len(text) - len(text.lstrip(b"\0"))
        return zeros > 0 and (start + zeros) % _SECTOR == 0
    try:
        json.JSONDecoder().raw_decode(text.decode("ascii", "replace"))
    except ValueError:
        return True
    return False


def _verified_line(text: bytes, number: int, previous: str, path: Path) -> dict[str, Any]:
    hashed = hashlib.sha256(text[:-_HASH_SIZE] + b"}").hexdigest().encode()
    if text[-_HASH_SIZE:] != _HASH % hashed:
        how = "not as it was written"
    else:
        line: dict[str, Any] = json.loads(text)
        if (line.get("sequence"), line.get("previous")) == (number - 1, previous):
            return line
        how = "does not follow the line before; lines are missing, added or out of order"
    raise DpdmError(f"{path}, line {number}: {how}; restore the file from a backup")


def _write(file: int, data: bytes) -> None:
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
                f"{path}: exists already; go on with it, or choose another file"
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
            advice = "check the path; a file that was lost has to come from a backup"
        elif error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            advice = "the file system cannot lock files: choose a local disk"
        raise DpdmError(f"{path}: cannot be used ({why}); {advice}") from error
