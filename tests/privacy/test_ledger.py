"""The ledger: what its records mean, what they cost together, and what a budget refuses.

The file under it, its chain, damage and interruption are those of ``tests/test_chain.py``.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpdm.chain import Chain
from dpdm.errors import DpdmError, RequestError
from dpdm.privacy import ledger as ledger_module
from dpdm.privacy.accounting import Event, epsilon
from dpdm.privacy.ledger import Ledger, read_ledger
from dpdm.promise.planning import gaussian, poisson_sampled_gaussian

COUNTS = gaussian(8)
STEP = poisson_sampled_gaussian(0.05, 1.1)
DELTA = 1e-5


def create(path: Path, run: str = "run", budget: tuple[float, float] | None = None) -> Ledger:
    return Ledger.create(
        path, dataset="digits", unit="image", noise_source="the kernel", run=run, budget=budget
    )


def record_steps(ledger: Ledger, count: int, start: int = 0) -> None:
    for step in range(start, start + count):
        ledger.record("DP-SGD step", STEP, step=step)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def written(path: Path) -> Path:
    """A closed ledger of a header (line 1) and six records (lines 2 to 7)."""
    with create(path) as ledger:
        ledger.record("counts", COUNTS)
        record_steps(ledger, 5)
    return path


# What is written


def test_a_record_is_on_disk_when_record_returns(path):
    with create(path) as ledger:
        ledger.record("DP-SGD step", STEP, step=7)
        line = json.loads(path.read_text().splitlines()[-1])
    assert line["run"] == "run"
    assert line["mechanism"] == "DP-SGD step"
    assert line["event"] == STEP.to_json()
    assert line["params"] == {"step": 7}
    assert line["software"].startswith("dpdm ")
    assert (datetime.now(UTC) - datetime.fromisoformat(line["time"])).total_seconds() < 3600


def test_the_header_says_what_the_ledger_is_about(path):
    with create(path) as ledger:
        header = ledger.header
    assert header["dataset"] == "digits"
    assert header["unit"] == "image"
    assert header["adjacency"] == "add or remove one unit"
    assert header["noise_source"] == "the kernel"
    assert header["software"].startswith("dpdm ")
    assert {"format", "time"} <= set(header)


def test_a_reopened_ledger_goes_on_where_it_ended(written):
    with Ledger.open(written) as ledger:
        assert len(ledger) == 6
        ledger.record("DP-SGD step", STEP, step=5)
    again = read_ledger(written)
    assert again.counted_events() == [("counts", COUNTS, 1), ("DP-SGD step", STEP, 6)]
    assert again.count(STEP) == 6


recorded = st.lists(
    st.tuples(
        st.sampled_from(["first", "second", "an other"]),
        st.text(max_size=12),
        st.builds(Event, st.floats(0.1, 1e4), st.floats(0.001, 1.0)),
        st.dictionaries(
            st.text(st.characters(categories=["L"]), min_size=1, max_size=8),
            st.integers() | st.text(max_size=8) | st.floats(allow_nan=False, allow_infinity=False),
            max_size=3,
        ),
    ),
    max_size=8,
)


@settings(max_examples=30)
@given(recorded)
def test_any_records_of_any_runs_survive_the_file(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    create(path).close()
    for run, name, event, params in records:
        with Ledger.open(path, run=run) as ledger:
            ledger.record(name, event, **params)
    again = read_ledger(path)
    assert len(again) == len(records)
    assert again.runs == tuple(dict.fromkeys(run for run, *_ in records))
    for wanted in (None, "first", "second"):
        expected: dict[tuple[str, Event], int] = {}
        for run, name, event, _ in records:
            if wanted in (None, run):
                expected[name, event] = expected.get((name, event), 0) + 1
        found = again.counted_events(wanted)
        assert {(name, event): count for name, event, count in found} == expected
        assert len(found) == len(expected)
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert [line["params"] for line in lines] == [params for *_, params in records]


def test_params_that_are_not_json_are_refused_before_anything_is_written(written):
    before = written.read_bytes()
    with Ledger.open(written) as ledger:
        with pytest.raises(ValueError, match="JSON"):
            ledger.record("DP-SGD step", STEP, step=float("nan"))
        with pytest.raises(TypeError):
            ledger.record("DP-SGD step", STEP, step=object())
        assert written.read_bytes() == before
        ledger.record("DP-SGD step", STEP, step=5)
    assert len(read_ledger(written)) == 7


# What was spent


def test_epsilon_is_that_of_everything_recorded(written):
    expected = epsilon([(COUNTS, 1), (STEP, 5)], DELTA, "rdp")
    assert read_ledger(written).epsilon(DELTA, "rdp") == expected


def test_an_empty_ledger_has_spent_nothing(path):
    with create(path) as ledger:
        assert ledger.epsilon(DELTA) == 0.0
        assert ledger.counted_events() == []
        assert ledger.runs == ()


def test_a_step_done_again_with_fresh_noise_counts_again(written):
    with Ledger.open(written) as ledger:
        record_steps(ledger, 2, start=4)
        assert ledger.count(STEP) == 7
        assert ledger.repeated == 1
        assert ledger.epsilon(DELTA) == epsilon([(COUNTS, 1), (STEP, 7)], DELTA)


def test_a_step_done_again_with_the_same_noise_counts_once(written):
    with Ledger.open(written) as ledger:
        assert not ledger.record_once("DP-SGD step", STEP, step=4)
        assert ledger.record_once("DP-SGD step", STEP, step=5)
        assert not ledger.record_once("DP-SGD step", STEP, step=5)
        assert ledger.record_once("DP-SGD step", poisson_sampled_gaussian(0.05, 1.2), step=4)
        assert ledger.record_once("another step", STEP, step=4)
        assert len(ledger) == 9
    with Ledger.open(written, run="with another seed") as ledger:
        assert ledger.record_once("DP-SGD step", STEP, step=5)


# Interruption and damage


def test_a_torn_last_line_never_released_anything_and_is_dropped(written):
    whole = written.read_bytes()
    written.write_bytes(whole[:-20])
    assert read_ledger(written).count(STEP) == 4
    with Ledger.open(written) as ledger:
        ledger.record("DP-SGD step", STEP, step=4)
    assert read_ledger(written).count(STEP) == 5


def test_a_whole_last_line_that_lacks_its_end_is_counted(written):
    written.write_bytes(written.read_bytes()[:-1])
    assert read_ledger(written).count(STEP) == 5


def test_less_noise_than_was_written_down_is_refused_with_the_line(written):
    written.write_bytes(written.read_bytes().replace(b'multiplier":1.1', b'multiplier":9.1'))
    for opening in (Ledger.open, read_ledger):
        with pytest.raises(DpdmError, match=r"ledger\.jsonl, line 3: not as it was written"):
            opening(written)


def test_a_ledger_cut_short_is_found_by_who_kept_its_head(written):
    kept = read_ledger(written).head
    written.write_bytes(b"".join(written.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(DpdmError, match="cut short"):
        read_ledger(written).require(kept)


# Other versions


def old_record(**changes: object) -> dict[str, object]:
    """A record as dpdm's first version wrote it: of no run, and with a count."""
    event = {"kind": "gaussian", "noise_multiplier": 8.0}
    content = {"time": "2026-11-01T12:00:00+00:00", "mechanism": "counts", "event": event}
    return content | {"count": 1, "params": {"step": 0}} | changes


def append_raw(path: Path, content: dict[str, object]) -> None:
    chain = Chain.open(path)
    chain.append(content)
    chain.close()


def test_records_of_the_first_version_are_read(path):
    create(path).close()
    append_raw(path, old_record())
    with Ledger.open(path) as ledger:
        assert ledger.counted_events("run") == [("counts", COUNTS, 1)]
        assert not ledger.record_once("counts", COUNTS, step=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"event": {"kind": "laplace", "scale": 2.0}},
        {"event": None},
        {"count": 2},
        {"run": 3},
        {"mechanism": None},
    ],
)
def test_a_record_this_version_cannot_read_is_refused_with_its_line(written, changes):
    append_raw(written, old_record(software="dpdm 9.0", **changes))
    for opening in (read_ledger, Ledger.open, Ledger.open):  # the second finds no lock left
        with pytest.raises(DpdmError, match=r"line 8: .* cannot read it; use dpdm 9.0 or newer"):
            opening(written)


def test_a_ledger_of_a_newer_format_is_refused(path, monkeypatch):
    monkeypatch.setattr(ledger_module, "FORMAT", 99)
    create(path).close()
    monkeypatch.undo()
    with pytest.raises(DpdmError, match="line 1: this version of dpdm cannot read it"):
        read_ledger(path)


def test_a_file_that_is_no_ledger_is_refused(path):
    Chain.create(path, {"about": "something else"}).close()
    with pytest.raises(DpdmError, match="line 1"):
        Ledger.open(path)


# Several runs


@pytest.fixture
def shared(path: Path) -> Path:
    """Two runs on a ledger with a budget of epsilon 1.5: 1 count and 6 steps, then 3 steps."""
    with create(path, "first", budget=(1.5, DELTA)) as ledger:
        ledger.record("counts", COUNTS)
        record_steps(ledger, 6)
    with Ledger.open(path, run="second") as ledger:
        record_steps(ledger, 3)
    return path


def test_each_run_knows_its_own_records_and_the_ledger_all(shared):
    ledger = read_ledger(shared, run="second")
    assert ledger.runs == ("first", "second")
    assert ledger.count(STEP) == 3
    assert ledger.counted_events("first") == [("counts", COUNTS, 1), ("DP-SGD step", STEP, 6)]
    assert ledger.counted_events() == [("counts", COUNTS, 1), ("DP-SGD step", STEP, 9)]
    assert ledger.counted_events("nobody") == []


def test_runs_compose_to_less_than_the_sum_of_their_epsilons_and_more_than_any(shared):
    ledger = read_ledger(shared)
    alone = [ledger.epsilon(DELTA, run=run) for run in ledger.runs]
    together = ledger.epsilon(DELTA)
    assert alone == [epsilon([(COUNTS, 1), (STEP, 6)], DELTA), epsilon([(STEP, 3)], DELTA)]
    assert max(alone) < together < sum(alone)
    assert together == epsilon([(COUNTS, 1), (STEP, 9)], DELTA)


def test_a_second_run_waits_for_the_first_and_is_told_which_file(shared):
    with (
        Ledger.open(shared, run="third"),
        pytest.raises(DpdmError, match=r"ledger.jsonl: .*another process has it open\); wait"),
    ):
        Ledger.open(shared, run="fourth")


def test_another_unit_is_refused(shared):
    ledger = read_ledger(shared)
    ledger.require_unit("image")
    with pytest.raises(RequestError, match="unit is 'image', that of this run 'group'"):
        ledger.require_unit("group")


# The budget


def test_the_budget_is_in_the_header_and_survives(shared):
    assert read_ledger(shared).budget == (1.5, DELTA)


def test_without_a_budget_nothing_is_refused(written):
    with Ledger.open(written) as ledger:
        assert ledger.budget is None
        ledger.check_budget([(gaussian(0.01), 10**6)])


@pytest.mark.parametrize("budget", [(0.0, DELTA), (float("inf"), DELTA), (float("nan"), DELTA)])
def test_a_budget_that_promises_nothing_is_refused(path, budget):
    with pytest.raises(RequestError, match="must be positive and finite"):
        create(path, budget=budget)
    with pytest.raises(RequestError, match="delta"):
        create(path, budget=(1.0, 1.0))
    assert not path.exists()


def most_steps(path: Path) -> int:
    """How many more steps the budget of ``shared`` allows, by counting up."""
    count = 0
    while epsilon([(COUNTS, 1), (STEP, 9 + count + 1)], DELTA) <= 1.5:
        count += 1
    return count


def test_a_plan_is_refused_exactly_where_it_and_everything_before_exceed_the_budget(shared):
    fits = most_steps(shared)
    assert fits > 3
    with Ledger.open(shared, run="third") as ledger:
        ledger.check_budget([(STEP, fits)])
        ledger.check_budget([(STEP, fits - 3), (STEP, 3)])
        with pytest.raises(
            DpdmError, match=r"is spent and .* is planned.*the budget is 1.5"
        ) as told:
            ledger.check_budget([(STEP, fits + 1)])
        for number in (
            ledger.epsilon(DELTA),
            epsilon([(STEP, fits + 1)], DELTA),
            epsilon([(COUNTS, 1), (STEP, 10 + fits)], DELTA),
        ):
            assert f"{number:.5g}" in str(told.value)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("planned", [0, 3, None])
def test_no_record_exceeds_the_budget_whatever_was_planned(shared, planned):
    fits = most_steps(shared)
    with Ledger.open(shared, run="third") as ledger:
        ledger.check_budget([(STEP, fits if planned is None else planned)])
        record_steps(ledger, fits)
        before = shared.read_bytes()
        with pytest.raises(DpdmError, match=r"the budget is 1\.5"):
            record_steps(ledger, 1)
        assert shared.read_bytes() == before
        assert ledger.count(STEP) == fits
        assert ledger.epsilon(DELTA) <= 1.5
        small = gaussian(1e4)  # what still fits may go on
        ledger.record("a small one", small)
        assert ledger.epsilon(DELTA) <= 1.5


def test_what_was_planned_is_not_given_away_to_something_else(shared):
    fits = most_steps(shared)
    with Ledger.open(shared, run="third") as ledger:
        ledger.check_budget([(STEP, fits)])
        with pytest.raises(DpdmError, match=r"the budget is 1\.5"):
            ledger.record("counts", COUNTS)
        record_steps(ledger, fits)


def test_planned_records_ask_the_accountant_once(shared, monkeypatch):
    asked = []

    def counting(*arguments):
        asked.append(arguments)
        return epsilon(*arguments)

    monkeypatch.setattr(ledger_module, "epsilon", counting)
    with Ledger.open(shared, run="third") as ledger:
        ledger.check_budget([(STEP, 4)])
        record_steps(ledger, 4)
        assert len(asked) == 1  # for the plan; the next is for a step more
        record_steps(ledger, 1)
        assert len(asked) == 2
