"""The ledger: on disk before noise is drawn, whole after a kill, and refused once damaged."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpdm.errors import DpdmError, RequestError
from dpdm.privacy import ledger as ledger_module
from dpdm.privacy.accounting import Event, epsilon, gaussian, poisson_sampled_gaussian
from dpdm.privacy.ledger import Ledger, read_ledger

COUNTS = gaussian(8)
STEP = poisson_sampled_gaussian(0.05, 1.1)


def create(path: Path) -> Ledger:
    return Ledger.create(path, dataset="digits", unit="image", noise_source="the kernel")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def written(path: Path) -> Path:
    """A closed ledger of a header (line 1) and six records (lines 2 to 7)."""
    with create(path) as ledger:
        ledger.record("counts", COUNTS)
        for step in range(5):
            ledger.record("DP-SGD step", STEP, step=step)
    return path


def rewritten(path: Path, change) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))


# What is written


def test_a_record_is_on_disk_before_record_returns(path, monkeypatch):
    with create(path) as ledger:
        synced = []
        monkeypatch.setattr(os, "fsync", lambda file: synced.append(path.read_bytes()))
        ledger.record("DP-SGD step", STEP, step=7)
        (on_disk,) = synced
    assert on_disk == path.read_bytes()
    assert json.loads(on_disk.splitlines()[-1])["params"] == {"step": 7}


def test_the_header_says_what_the_ledger_is_about(path):
    with create(path) as ledger:
        header = ledger.header
    assert header["dataset"] == "digits"
    assert header["unit"] == "image"
    assert header["adjacency"] == "add or remove one unit"
    assert header["noise_source"] == "the kernel"
    assert header["software"].startswith("dpdm ")
    assert {"format", "created"} <= set(header)


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


def test_a_reopened_ledger_goes_on_where_it_ended(written):
    with Ledger.open(written) as ledger:
        assert len(ledger) == 6
        ledger.record("DP-SGD step", STEP, step=5)
    again = read_ledger(written)
    assert again.counted_events() == [("counts", COUNTS, 1), ("DP-SGD step", STEP, 6)]
    assert again.count(STEP) == 6


recorded = st.lists(
    st.tuples(
        st.text(max_size=12),
        st.builds(Event, st.floats(0.1, 1e4), st.floats(0.001, 1.0)),
        st.dictionaries(
            st.text(st.characters(categories=["L"]), min_size=1, max_size=8),
            st.one_of(
                st.integers(), st.text(max_size=8), st.floats(allow_nan=False, width=32)
            ).filter(lambda value: value not in (float("inf"), float("-inf"))),
            max_size=3,
        ),
    ),
    max_size=8,
)


@settings(max_examples=30, deadline=None)
@given(recorded, st.integers(0, 8))
def test_any_records_survive_the_file_and_a_reopening(tmp_path_factory, records, split):
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    with create(path) as ledger:
        for name, event, params in records[:split]:
            ledger.record(name, event, **params)
    with Ledger.open(path) as ledger:
        for name, event, params in records[split:]:
            ledger.record(name, event, **params)
    expected: dict[tuple[str, Event], int] = {}
    for name, event, _ in records:
        expected[name, event] = expected.get((name, event), 0) + 1
    again = read_ledger(path)
    assert {(name, event): count for name, event, count in again.counted_events()} == expected
    assert len(again) == len(records)
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert [line["params"] for line in lines] == [params for _, _, params in records]


def test_params_that_are_not_json_are_refused_before_anything_is_written(written):
    before = written.read_bytes()
    with Ledger.open(written) as ledger:
        with pytest.raises(ValueError, match="JSON"):
            ledger.record("DP-SGD step", STEP, step=float("nan"))
        with pytest.raises(TypeError):
            ledger.record("DP-SGD step", STEP, step=object())
        ledger.record("DP-SGD step", STEP, step=5)
    assert written.read_bytes().startswith(before)
    assert len(read_ledger(written)) == 7


# What was spent


def test_epsilon_is_that_of_everything_recorded(written):
    expected = epsilon([(COUNTS, 1), (STEP, 5)], 1e-5, "rdp")
    assert read_ledger(written).epsilon(1e-5, "rdp") == expected
    assert read_ledger(written).summary(1e-5, "rdp")["epsilon"] == expected


def test_an_empty_ledger_has_spent_nothing(path):
    with create(path) as ledger:
        assert ledger.epsilon(1e-5) == 0.0
        assert ledger.counted_events() == []


def test_a_step_done_again_with_fresh_noise_counts_again(written):
    with Ledger.open(written) as ledger:
        ledger.record("DP-SGD step", STEP, step=4)
        ledger.record("DP-SGD step", STEP, step=5)
        assert ledger.count(STEP) == 7
        summary = ledger.summary(1e-5)
    assert summary["repeated"] == 1
    assert summary["epsilon"] == epsilon([(COUNTS, 1), (STEP, 7)], 1e-5)


def test_a_step_done_again_with_the_same_noise_counts_once(written):
    with Ledger.open(written) as ledger:
        assert not ledger.record_once("DP-SGD step", STEP, step=4)
        assert ledger.record_once("DP-SGD step", STEP, step=5)
        assert not ledger.record_once("DP-SGD step", STEP, step=5)
        assert ledger.record_once("DP-SGD step", poisson_sampled_gaussian(0.05, 1.2), step=4)
        assert ledger.record_once("another step", STEP, step=4)
        assert len(ledger) == 9


def test_the_summary_is_json_with_everything_in_it(written):
    summary = json.loads(json.dumps(read_ledger(written).summary(1e-5), allow_nan=False))
    assert summary["records"] == 6
    assert [(m["name"], m["count"]) for m in summary["mechanisms"]] == [
        ("counts", 1),
        ("DP-SGD step", 5),
    ]
    assert summary["mechanisms"][1]["event"] == STEP.to_json()


def test_an_epsilon_that_is_not_finite_is_not_a_number_in_the_summary(path):
    with create(path) as ledger:
        for step in range(3):
            ledger.record("DP-SGD step", STEP, step=step)
        assert ledger.summary(1e-17)["epsilon"] is None


# Interruption


def test_a_torn_last_line_never_released_anything_and_is_dropped(written):
    whole = written.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for kept in range(1, last - 1):
        written.write_bytes(whole[: len(whole) - last + kept])
        assert len(read_ledger(written)) == 5
        with Ledger.open(written) as ledger:
            assert len(ledger) == 5
        assert written.read_bytes() == whole[:-last]


def test_after_a_torn_line_the_ledger_goes_on(written):
    written.write_bytes(written.read_bytes()[:-20])
    with Ledger.open(written) as ledger:
        ledger.record("DP-SGD step", STEP, step=4)
    assert read_ledger(written).count(STEP) == 5


def test_a_whole_last_line_that_lacks_its_end_is_counted(written):
    whole = written.read_bytes()
    written.write_bytes(whole[:-1])
    assert len(read_ledger(written)) == 6
    with Ledger.open(written) as ledger:
        ledger.record("DP-SGD step", STEP, step=5)
    assert len(read_ledger(written)) == 7
    assert written.read_bytes().startswith(whole)


@pytest.mark.parametrize("tail", [b"\0" * 200, b"\0" * 50 + b'"}\n', b'{"sequ' + b"\0" * 9 + b"\n"])
def test_zeros_that_a_power_failure_left_at_the_end_are_dropped(written, tail):
    whole = written.read_bytes()
    written.write_bytes(whole + tail)
    with Ledger.open(written) as ledger:
        assert len(ledger) == 6
    assert written.read_bytes() == whole


def test_reading_changes_nothing(written):
    torn = written.read_bytes()[:-20]
    written.write_bytes(torn)
    read_ledger(written)
    assert written.read_bytes() == torn


def _record_until_killed(path: str, returned: int) -> None:
    with Ledger.open(path) as ledger:
        for step in range(len(ledger), 10**6):
            ledger.record("DP-SGD step", STEP, step=step)
            os.write(returned, step.to_bytes(8, "big"))


def test_killed_at_random_instants_it_holds_every_record_that_returned(path):
    create(path).close()
    instants = random.Random(1)
    fork = multiprocessing.get_context("fork")
    for _ in range(12):
        reading, writing = os.pipe()
        child = fork.Process(target=_record_until_killed, args=(str(path), writing))
        child.start()
        os.close(writing)
        last = int.from_bytes(os.read(reading, 8), "big")
        time.sleep(instants.uniform(0.001, 0.05))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        while told := os.read(reading, 8):
            last = int.from_bytes(told, "big")
        os.close(reading)
        with Ledger.open(path) as ledger:
            assert last < len(ledger) <= last + 2
            assert ledger.count(STEP) == len(ledger)
    assert len(read_ledger(path)) > 12


def test_a_creation_that_is_killed_leaves_no_ledger_behind(path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    monkeypatch.setattr(ledger_module, "_append", kill)
    with pytest.raises(Killed):
        create(path)
    monkeypatch.undo()
    assert list(path.parent.iterdir()) == []
    create(path).close()


# Damage


def edit(number, old, new):
    def change(lines):
        assert old in lines[number - 1]
        lines[number - 1] = lines[number - 1].replace(old, new)
        return lines

    return change


@pytest.mark.parametrize(
    ("change", "line"),
    [
        pytest.param(edit(1, b"digits", b"digitz"), 1, id="header edited"),
        pytest.param(edit(4, b'"noise_multiplier":1.1', b'"noise_multiplier":9.1'), 4, id="edited"),
        pytest.param(edit(4, b'"step":', b'"step": '), 4, id="a space added"),
        pytest.param(edit(7, b'"noise_multiplier":1.1', b'"noise_multiplier":9.1'), 7, id="last"),
        pytest.param(edit(7, b'"count":1', b'"count":0'), 7, id="last count"),
        pytest.param(edit(7, b'{"sequence"', b'"sequence"'), 7, id="last line broken"),
        pytest.param(
            lambda ls: [*ls[:-1], ls[-1].replace(b"1.1", b"9.1")[:-1]], 7, id="no newline"
        ),
        pytest.param(lambda ls: [*ls[:2], ls[3], ls[2], *ls[4:]], 3, id="reordered"),
        pytest.param(lambda ls: [*ls[:3], *ls[4:]], 4, id="one removed"),
        pytest.param(lambda ls: ls[1:], 1, id="header removed"),
        pytest.param(lambda ls: [*ls[:4], ls[3], *ls[4:]], 5, id="one repeated"),
        pytest.param(lambda ls: [*ls[:3], b"\n", *ls[3:]], 4, id="empty line"),
        pytest.param(lambda ls: [*ls[:3], ls[3][:30] + b"\n", *ls[4:]], 4, id="cut in the middle"),
        pytest.param(lambda ls: [*ls[:3], b"[1, 2]\n", *ls[4:]], 4, id="other JSON"),
        pytest.param(lambda ls: [*ls[:3], b"\0" * 300 + b"\n", *ls[4:]], 4, id="zeros inside"),
        pytest.param(lambda ls: [*ls, b"hello\n"], 8, id="something appended"),
        pytest.param(lambda ls: [], 1, id="empty"),
        pytest.param(lambda ls: [b"hello"], 1, id="no ledger at all"),
    ],
)
def test_any_damage_is_refused_with_the_lines_number_and_nothing_is_changed(written, change, line):
    rewritten(written, change)
    before = written.read_bytes()
    for opening in (Ledger.open, read_ledger):
        with pytest.raises(DpdmError, match=rf"^[^\n]*ledger.jsonl, line {line}: [^\n]+$"):
            opening(written)
    assert written.read_bytes() == before


def test_a_line_forged_with_its_own_hash_breaks_the_chain(written):
    def forge(lines):
        line = json.loads(lines[3])
        line["event"]["noise_multiplier"] = 9.9
        previous = line.pop("previous")
        del line["hash"]
        lines[3] = ledger_module._seal(line, previous)
        return lines

    rewritten(written, forge)
    with pytest.raises(DpdmError, match="line 5: does not follow the line before"):
        read_ledger(written)


def test_a_ledger_cut_short_is_found_by_who_kept_its_head(written):
    ledger = read_ledger(written)
    kept = ledger.head
    ledger.require(kept)
    rewritten(written, lambda lines: lines[:-1])
    with pytest.raises(DpdmError, match="cut short"):
        read_ledger(written).require(kept)


def test_an_older_head_is_still_part_of_a_ledger_that_went_on(written):
    with Ledger.open(written) as ledger:
        kept = ledger.head
        ledger.record("DP-SGD step", STEP, step=5)
        ledger.require(kept)


def test_a_ledger_of_a_newer_format_is_refused(written):
    def newer(lines):
        header = json.loads(lines[0]) | {"format": 99}
        del header["hash"], header["previous"]
        return [ledger_module._seal(header, "0" * 64)]

    rewritten(written, newer)
    with pytest.raises(DpdmError, match="line 1: ledger format 99"):
        read_ledger(written)


def test_an_event_this_version_does_not_know_is_refused_with_its_line(path):
    class Laplace(Event):
        def to_json(self):
            return {"kind": "laplace", "scale": 2.0}

    with create(path) as ledger, pytest.raises(DpdmError, match="line 2: this version of dpdm"):
        ledger.record("counts", Laplace(1.0))
    with pytest.raises(DpdmError, match="line 2: this version of dpdm"):
        read_ledger(path)


# One writer, and files that cannot be used


def test_a_second_writer_is_refused_until_the_first_ends(written):
    with Ledger.open(written):
        with pytest.raises(DpdmError, match="another process has it open"):
            Ledger.open(written)
        assert len(read_ledger(written)) == 6
    Ledger.open(written).close()


def test_a_ledger_being_created_is_locked(path):
    with create(path), pytest.raises(DpdmError, match="another process has it open"):
        Ledger.open(path)


def test_an_existing_file_is_never_replaced(written):
    before = written.read_bytes()
    with pytest.raises(RequestError, match="exists already"):
        create(written)
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_a_file_system_without_links_holds_a_ledger_too(path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    create(path).close()
    with pytest.raises(RequestError, match="exists already"):
        create(path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("opening", [Ledger.open, read_ledger])
def test_a_ledger_that_is_not_there_is_an_error_and_not_a_fresh_budget(path, opening):
    with pytest.raises(DpdmError, match="No such file"):
        opening(path)
    assert not path.exists()


def test_after_a_full_disk_nothing_is_half_written_and_nothing_goes_on(written, monkeypatch):
    whole, write = written.read_bytes(), os.write

    def full(file, data):
        write(file, data[:40])
        raise OSError(errno.ENOSPC, "No space left on device")

    with Ledger.open(written) as ledger:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(DpdmError, match="No space left on device"):
            ledger.record("DP-SGD step", STEP, step=5)
        monkeypatch.undo()
        assert len(ledger) == 6
        with pytest.raises(DpdmError, match="not open for writing"):
            ledger.record("DP-SGD step", STEP, step=5)
    assert written.read_bytes() == whole


def test_a_ledger_that_was_only_read_cannot_be_written(written):
    with pytest.raises(DpdmError, match="not open for writing"):
        read_ledger(written).record("DP-SGD step", STEP, step=5)


def test_thousands_of_records_are_read_back_as_written(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    with create(path) as ledger:
        for step in range(5000):
            ledger.record("DP-SGD step", STEP, step=step)
        head = ledger.head
    with Ledger.open(path) as ledger:
        assert ledger.count(STEP) == len(ledger) == 5000
        assert ledger.head == head
