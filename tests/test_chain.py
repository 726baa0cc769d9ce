"""A file that only grows: on disk when ``append`` returns, whole after a kill, refused if changed.

Every damage is one of a few: a byte changed, lines missing, added or out of order. What an
interrupted append leaves at the end is no damage and is dropped.
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dpdm import chain as chain_module
from dpdm.chain import Chain
from dpdm.errors import DpdmError, RequestError

HEADER = {"about": "a test"}
LAST = 7  # the number of the last line
FORK = multiprocessing.get_context("fork")


@contextmanager
def create(path: Path) -> Iterator[Chain]:
    chain = Chain.create(path, HEADER)
    yield chain
    chain.close()


@contextmanager
def opened(path: Path) -> Iterator[Chain]:
    chain = Chain.open(path)
    yield chain
    chain.close()


def write(path: Path) -> Path:
    """A file of a header (line 1) and six lines (2 to 7)."""
    with create(path) as chain:
        for step in range(LAST - 1):
            chain.append({"step": step, "name": "é" * step})
    return path


def steps(chain: Chain) -> list[int]:
    return [line["step"] for line in chain.lines[1:]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chain.jsonl"


@pytest.fixture
def written(path: Path) -> Path:
    return write(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    return write(tmp_path_factory.mktemp("chain") / "chain.jsonl").read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "chain.jsonl"


# What is written


def test_a_line_is_on_disk_before_append_returns(path, monkeypatch):
    with create(path) as chain:
        synced = []
        monkeypatch.setattr(os, "fsync", lambda file: synced.append(path.read_bytes()))
        chain.append({"step": 7})
        (on_disk,) = synced
    assert on_disk == path.read_bytes()
    assert json.loads(on_disk.splitlines()[-1])["step"] == 7


def test_every_line_is_chained_to_the_one_before_by_sha256(written):
    previous = "0" * 64
    for number, text in enumerate(written.read_text().splitlines()):
        line = json.loads(text)
        digest = line.pop("hash")
        assert line["sequence"] == number
        assert line["previous"] == previous
        body = json.dumps(line, separators=(",", ":"))
        assert hashlib.sha256(body.encode()).hexdigest() == digest
        previous = digest


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
contents = st.lists(
    st.dictionaries(st.text(max_size=6).map(lambda key: "own " + key), values, max_size=3),
    max_size=6,
)


@settings(max_examples=40)
@given(contents, st.integers(0, 6))
def test_what_was_appended_survives_the_file_and_a_reopening(tmp_path_factory, given, split):
    path = tmp_path_factory.mktemp("chain") / "chain.jsonl"
    with create(path) as chain:
        for content in given[:split]:
            chain.append(content)
    with opened(path) as chain:
        for content in given[split:]:
            chain.append(content)
        kept = chain.lines
    again = Chain.read(path)
    assert again.lines == kept
    found = [{key: line[key] for key in line if key not in Chain.OWN} for line in again.lines]
    assert found == [HEADER, *given]


@pytest.mark.parametrize(("content", "error"), [({"x": float("nan")}, ValueError)])
def test_what_is_not_json_is_refused_before_anything_is_written(written, content, error):
    before = written.read_bytes()
    with opened(written) as chain:
        with pytest.raises(error):
            chain.append(content)
        with pytest.raises(TypeError):
            chain.append({"x": object()})
        assert written.read_bytes() == before
        chain.append({"step": 6})
    assert steps(Chain.read(written)) == list(range(7))


# Damage, found by whoever opens or reads; nothing is changed by finding it


def assert_refused(path: Path, data: bytes, line: int) -> None:
    path.write_bytes(data)
    for opening in (Chain.open, Chain.read):
        with pytest.raises(DpdmError, match=rf"^[^\n]*chain.jsonl, line {line}: [^\n]+backup$"):
            opening(path)
    assert path.read_bytes() == data


@settings(max_examples=300)
@given(st.data())
def test_any_byte_edited_is_refused_with_its_lines_number(whole, scratch, data):
    place = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255) | st.sampled_from(list(b'\0\n "{}019')))
    assume(byte != whole[place])
    assume(not (place == len(whole) - 1 and byte == 0))  # see below: a tail of zeros
    edited = whole[:place] + bytes([byte]) + whole[place + 1 :]
    assert_refused(scratch, edited, 1 + whole[:place].count(b"\n"))


def test_every_byte_of_the_last_line_is_held(whole, scratch):
    start = whole.rindex(b"\n", 0, -1) + 1
    for place in range(start, len(whole)):
        edited = bytearray(whole)
        edited[place] ^= 1 << place % 8
        assert_refused(scratch, bytes(edited), LAST)


@given(st.integers(1, LAST - 1))
def test_a_line_dropped_is_refused_where_it_is_missing(whole, scratch, line):
    lines = whole.splitlines(keepends=True)
    assert_refused(scratch, b"".join(lines[: line - 1] + lines[line:]), line)


@given(st.integers(1, LAST), st.integers(1, LAST))
def test_two_lines_swapped_are_refused_at_the_first(whole, scratch, one, other):
    assume(one < other)
    lines = whole.splitlines(keepends=True)
    lines[one - 1], lines[other - 1] = lines[other - 1], lines[one - 1]
    assert_refused(scratch, b"".join(lines), one)


@given(st.integers(1, LAST), st.integers(0, LAST))
def test_a_line_there_twice_is_refused_at_the_copy(whole, scratch, line, place):
    lines = whole.splitlines(keepends=True)
    lines.insert(place, lines[line - 1])
    assert_refused(scratch, b"".join(lines), line + 1 if place == line - 1 else place + 1)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        pytest.param(lambda ls: [*ls[:3], b"\n", *ls[3:]], 4, id="an empty line"),
        pytest.param(lambda ls: [*ls[:3], ls[3][:30] + b"\n", *ls[4:]], 4, id="cut inside"),
        pytest.param(lambda ls: [*ls[:3], b"[1, 2]\n", *ls[4:]], 4, id="other JSON"),
        pytest.param(lambda ls: [*ls[:3], b"\0" * 512 + b"\n", *ls[4:]], 4, id="zeros inside"),
        pytest.param(lambda ls: [*ls[:-1], ls[-1].replace(b"5", b"6")[:-1]], LAST, id="no end"),
        pytest.param(lambda ls: [*ls[:-1], ls[-1][:-1] + b"x"], LAST, id="another end"),
        pytest.param(lambda ls: [*ls, b"hello\n"], LAST + 1, id="something appended"),
        pytest.param(lambda ls: [], 1, id="empty"),
        pytest.param(lambda ls: [b"hello"], 1, id="another file"),
        pytest.param(lambda ls: [ls[0][:40]], 1, id="a header cut short"),
    ],
)
def test_other_damage_is_refused_with_the_lines_number(whole, scratch, change, line):
    assert_refused(scratch, b"".join(change(whole.splitlines(keepends=True))), line)


def test_a_line_forged_with_its_own_hash_breaks_the_chain(whole, scratch):
    lines = whole.splitlines(keepends=True)
    forged = json.loads(lines[3]) | {"step": 9}
    sequence, previous = forged.pop("sequence"), forged.pop("previous")
    del forged["hash"]
    lines[3] = chain_module._seal(forged, sequence, previous)
    assert_refused(scratch, b"".join(lines), 5)


def test_a_file_cut_short_between_lines_is_found_by_who_kept_its_head(written):
    chain = Chain.read(written)
    kept = chain.head
    chain.require(kept)
    written.write_bytes(b"".join(written.read_bytes().splitlines(keepends=True)[:-1]))
    shorter = Chain.read(written)
    assert len(shorter.lines) == LAST - 1
    with pytest.raises(DpdmError, match="cut short"):
        shorter.require(kept)


def test_an_older_head_is_still_part_of_a_file_that_went_on(written):
    with opened(written) as chain:
        kept = chain.head
        chain.append({"step": 6})
        chain.require(kept)


# Interruption: what it leaves at the end is dropped, and only that


def assert_opens_as(path: Path, data: bytes, expected: bytes) -> None:
    """``data`` reads as ``expected`` and is that on disk once opened; and it can go on."""
    path.write_bytes(data)
    kept = len(expected.splitlines())
    assert len(Chain.read(path).lines) == kept
    assert path.read_bytes() == data  # reading changes nothing
    with opened(path) as chain:
        assert path.read_bytes() == expected
        chain.append({"step": "next"})
    assert steps(Chain.read(path)) == [*range(kept - 1), "next"]
    assert path.read_bytes().startswith(expected)


@settings(max_examples=200)
@given(st.integers(0, 5000))
@example(0)
@example(1)
@example(2)
def test_cut_anywhere_after_the_header_it_keeps_exactly_the_whole_lines(whole, scratch, cut):
    ends = [place for place in range(len(whole)) if whole[place : place + 1] == b"\n"]
    length = max(ends[0], len(whole) - cut)
    kept = max(end for end in ends if end <= length)  # a line that only lacks its end is whole
    assert_opens_as(scratch, whole[:length], whole[: kept + 1])


@settings(max_examples=50)
@given(st.integers(0, 5000), st.integers(0, 2000))
@example(0, 1)
@example(1, 1)
def test_zeros_after_the_end_are_dropped(whole, scratch, cut, zeros):
    start = whole.rindex(b"\n", 0, -1) + 1
    length = max(start, len(whole) - cut)
    kept = whole if length >= len(whole) - 1 else whole[:start]
    assert_opens_as(scratch, whole[:length] + b"\0" * zeros, kept)


def test_a_line_whose_first_sectors_were_never_written_is_dropped(whole, scratch):
    start = whole.rindex(b"\n", 0, -1) + 1
    sector = -(-start // 512) * 512
    tail = whole[start:] * 6  # any tail with one end
    torn = whole[:start] + b"\0" * (sector - start) + tail.replace(b"\n", b"") + b"\n"
    assert_opens_as(scratch, torn, whole[:start])
    assert_refused(scratch, whole[:start] + b"\0" * (sector - start + 1) + b"x\n", LAST)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("instant", ["_write", "_move_to_new_name"])
def test_a_creation_that_is_cut_off_leaves_nothing_behind(path, monkeypatch, instant):
    def kill(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(chain_module, instant, kill)
    with pytest.raises(Killed):
        Chain.create(path, HEADER)
    monkeypatch.undo()
    assert list(path.parent.iterdir()) == []
    write(path)


# A disk that fails


def failing(after: Callable[..., Any], number: int, message: str) -> Callable[..., Any]:
    def fail(*arguments: Any) -> None:
        after(*arguments)
        raise OSError(number, message)

    return fail


def half(file: int, data: bytes, write: Callable[[int, bytes], int] = os.write) -> None:
    write(file, data[:40])


@pytest.mark.parametrize(
    ("call", "after", "number", "message"),
    [
        ("write", half, errno.ENOSPC, "No space left on device"),
        ("fsync", lambda file: None, errno.EIO, "Input/output error"),
    ],
)
def test_after_a_failed_write_nothing_of_it_stays_and_nothing_goes_on(
    written, monkeypatch, call, after, number, message
):
    before = written.read_bytes()
    with opened(written) as chain:
        monkeypatch.setattr(os, call, failing(after, number, message))
        with pytest.raises(DpdmError, match=message):
            chain.append({"step": 6})
        monkeypatch.undo()
        assert steps(chain) == list(range(6))
        with pytest.raises(DpdmError, match="not open for writing"):
            chain.append({"step": 6})
    assert_opens_as(written, written.read_bytes(), before)


def test_interrupted_inside_a_write_it_is_closed_and_whole(written, monkeypatch):
    before = written.read_bytes()

    def interrupt(file: int, data: bytes) -> None:
        half(file, data)
        raise KeyboardInterrupt

    with opened(written) as chain:
        monkeypatch.setattr(os, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            chain.append({"step": 6})
        monkeypatch.undo()
        with pytest.raises(DpdmError, match="not open for writing"):
            chain.append({"step": 6})
    assert_opens_as(written, written.read_bytes(), before)


def test_a_disk_that_cannot_even_take_back_leaves_a_torn_line_that_is_dropped(written, monkeypatch):
    before = written.read_bytes()
    with opened(written) as chain:
        monkeypatch.setattr(os, "write", failing(half, errno.ENOSPC, "No space left on device"))
        monkeypatch.setattr(os, "ftruncate", failing(lambda *_: None, errno.EIO, "broken"))
        with pytest.raises(DpdmError, match="No space left on device"):
            chain.append({"step": 6})
        monkeypatch.undo()
    torn = written.read_bytes()
    assert torn != before
    assert_opens_as(written, torn, before)


def test_a_write_that_takes_only_a_part_goes_on_until_all_is_written(written, monkeypatch):
    take = os.write
    with opened(written) as chain:
        monkeypatch.setattr(os, "write", lambda file, data: take(file, data[:7]))
        chain.append({"step": 6})
        monkeypatch.undo()
    assert steps(Chain.read(written)) == list(range(7))


# One writer


def test_a_second_writer_is_refused_until_the_first_ends(written):
    with opened(written):
        with pytest.raises(DpdmError, match=r"chain.jsonl: .*another process has it open\); wait"):
            Chain.open(written)
        assert len(Chain.read(written).lines) == LAST
    Chain.open(written).close()


def test_a_file_being_created_is_locked(path):
    with create(path), pytest.raises(DpdmError, match="another process has it open"):
        Chain.open(path)


def test_what_was_only_read_cannot_be_written(written):
    with pytest.raises(DpdmError, match="not open for writing"):
        Chain.read(written).append({"step": 6})


def test_a_damaged_file_is_not_left_locked(written):
    data = written.read_bytes()
    written.write_bytes(data.replace(b"a test", b"a tset"))
    with pytest.raises(DpdmError, match="line 1"):
        Chain.open(written)
    written.write_bytes(data)
    Chain.open(written).close()


def _try(attempt: Callable[[Path], Chain], path: Path, start: Any, tried: Any, said: Any) -> None:
    start.wait()
    try:
        chain = attempt(path)
    except DpdmError as error:
        said.put(str(error))
        tried.wait()
    else:
        said.put("")
        chain.append({"by": os.getpid()})
        tried.wait()  # holds the lock until the other has tried
        chain.close()


def _race(attempt: Callable[[Path], Chain], path: Path) -> list[str]:
    """What two processes say that try at the same time: "" for success."""
    start, tried, said = FORK.Barrier(2), FORK.Barrier(2), FORK.Queue()
    racers = [FORK.Process(target=_try, args=(attempt, path, start, tried, said)) for _ in "12"]
    for racer in racers:
        racer.start()
    answers = sorted(said.get(timeout=30) for _ in racers)
    for racer in racers:
        racer.join()
    return answers


@pytest.mark.parametrize("attempt", range(10))
def test_of_two_processes_that_race_to_open_one_writes_and_one_is_told(written, attempt):
    won, lost = _race(Chain.open, written)
    assert won == ""
    assert "another process has it open" in lost
    assert len(Chain.read(written).lines) == LAST + 1


@pytest.mark.parametrize("attempt", range(10))
def test_of_two_processes_that_race_to_create_one_does_and_one_is_told(path, attempt):
    won, lost = _race(lambda path: Chain.create(path, HEADER), path)
    assert won == ""
    assert "exists already" in lost
    assert len(Chain.read(path).lines) == 2
    assert list(path.parent.iterdir()) == [path]


# Files that cannot be used


def test_an_existing_file_is_never_replaced(written):
    before = written.read_bytes()
    with pytest.raises(RequestError, match="exists already"):
        Chain.create(written, HEADER)
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_a_file_system_without_links_will_do(path, monkeypatch):
    monkeypatch.setattr(os, "link", failing(lambda *_: None, errno.EPERM, "not permitted"))
    write(path)
    with pytest.raises(RequestError, match="exists already"):
        Chain.create(path, HEADER)
    assert list(path.parent.iterdir()) == [path]


def test_a_file_system_without_locks_is_refused(written, monkeypatch):
    monkeypatch.setattr(
        chain_module.fcntl, "flock", failing(lambda *_: None, errno.ENOLCK, "No locks available")
    )
    with pytest.raises(DpdmError, match="cannot lock files: choose a local disk"):
        Chain.open(written)


@pytest.mark.parametrize("opening", [Chain.open, Chain.read])
def test_a_file_that_is_not_there_is_an_error_and_not_a_fresh_start(path, opening):
    with pytest.raises(DpdmError, match="No such file"):
        opening(path)
    assert not path.exists()


def test_thousands_of_lines_are_read_back_as_written(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    with create(path) as chain:
        for step in range(5000):
            chain.append({"step": step})
        head = chain.head
    with opened(path) as chain:
        assert steps(chain) == list(range(5000))
        assert chain.head == head
