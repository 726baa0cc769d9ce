"""Downloads of the named data sets into a cache folder, each file checked against its known digest.

Nothing else in the product uses the network. A file appears under its name only once it is whole
and right: it is written beside it, checked, flushed and renamed.
"""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import URLError

from dpdm.data.catalogue import NAMED, Named, Remote
from dpdm.data.paths import user_path
from dpdm.errors import DpdmError, RequestError

Progress = Callable[[str, int, int | None], None]

_BLOCK = 1 << 20
_TIMEOUT = 30.0
_NETWORK_ERRORS = (URLError, HTTPException, SSLError, TimeoutError, ConnectionError)


def cache_folder() -> Path:
    """``DPDM_CACHE``, or ``dpdm`` in the platform's folder for caches."""
    chosen = os.environ.get("DPDM_CACHE")
    if chosen:
        return user_path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dpdm"
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dpdm"


def data_folders(name: str) -> tuple[Path, ...]:
    """Where files of a named set are looked for: ``$DPDM_DATA/name``, then the cache."""
    offline = os.environ.get("DPDM_DATA")
    folders = [user_path(offline) / name] if offline else []
    return (*folders, cache_folder() / name)


def named(name: str) -> Named:
    """The catalogue's entry; raises RequestError for a name it does not have."""
    if name not in NAMED:
        raise RequestError(f"no data set is called {name!r}; the names are {', '.join(NAMED)}")
    return NAMED[name]


def fetch(name: str, progress: Progress | None = None) -> Path | None:
    """Download a named data set into the cache and return its folder; None where it is built in.

    Files already there with the right digest are kept. ``progress(file, bytes_done, bytes_in_all)``
    is called as bytes arrive (in all is None where the server does not say); by default progress
    goes to standard error. Raises RequestError for an unknown name, DpdmError where no address
    gives the file.
    """
    entry = named(name)
    if not entry.remotes:
        return None
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for remote in entry.remotes:
            path = folder / remote.name
            if not (path.is_file() and matches(path, remote.digest)):
                download_file(remote, path, progress or _print_progress)
    except OSError as error:
        raise DpdmError(
            f"{folder}: cannot be written ({error.strerror or error}); set DPDM_CACHE to a folder "
            "with room"
        ) from None
    return folder


def matches(path: Path, digest: str) -> bool:
    """Whether a file has the digest "algorithm:hexadecimal"."""
    algorithm, _, expected = digest.partition(":")
    state = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest() == expected


def download_file(remote: Remote, path: Path, progress: Progress) -> None:
    """Fetches a file from the first address that has it, checks its digest and puts it in place.

    Raises:
        DpdmError: no address answers, or what came is not the file.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    failures = []
    try:
        for url in remote.urls:
            try:
                _copy(url, partial, remote.name, progress)
            except _NETWORK_ERRORS as error:
                failures.append(f"{url}: {getattr(error, 'reason', None) or error}")
                continue
            if matches(partial, remote.digest):
                partial.replace(path)
                return
            failures.append(f"{url}: another file came back, not {remote.digest}")
    finally:
        partial.unlink(missing_ok=True)
    raise DpdmError(
        f"{remote.name} could not be downloaded ({'; '.join(failures)}); "
        f"get it by other means and put it at {path}"
    )


def _copy(url: str, path: Path, name: str, progress: Progress) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "dpdm"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response, path.open("wb") as file:
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdecimal() else None
        done = 0
        while block := response.read(_BLOCK):
            file.write(block)
            done += len(block)
            progress(name, done, total)
        if total is None:
            progress(name, done, done)
        file.flush()
        os.fsync(file.fileno())


def _print_progress(name: str, done: int, total: int | None) -> None:
    """One line a file: rewritten in place on a terminal, printed once at the end elsewhere."""
    finished = total is not None and done >= total
    terminal = sys.stderr.isatty()
    if not (finished or terminal):
        return
    of = f" of {total / 1e6:.1f}" if total else ""
    start, end = ("\r", "\n" if finished else "") if terminal else ("", "\n")
    print(f"{start}{name}: {done / 1e6:.1f}{of} MB", end=end, file=sys.stderr, flush=True)
