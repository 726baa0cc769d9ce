"""Killed at random instants, a ledger needs no repair and never holds less than was drawn.

A child process releases through the mechanisms and is killed by SIGKILL; the next goes on with the
same ledger. A witness notes every draw of noise just before it is made, in a file that survives the
kill. One child in three writes its ledger as to a slow disk, a few bytes at a time, so that many
kills tear a line, and one as to a quick disk, without waiting for it (a kill, unlike a power
failure, loses nothing that was written). About 20 seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpdm.privacy import (
    DpSgdStep,
    Ledger,
    NoisedSum,
    PrivateUnits,
    Session,
    SystemNoise,
    epsilon,
    read_ledger,
)

KILLS = 100
LONGEST = 0.1  # seconds; in 0.05 a busy machine drew 99 times in all
DELTA = 1e-5
SUM = NoisedSum("sum", noise_multiplier=50.0, max_norm=1.0)
STEP = DpSgdStep(
    sample_rate=0.5, noise_multiplier=20.0, max_grad_norm=1.0, expected_units=10.0, microbatch=4
)
EVENTS = {"sum": SUM.event, "DP-SGD step": STEP.event}
FORK = multiprocessing.get_context("fork")

_write = os.write


class WitnessedNoise(SystemNoise):
    """Noise of which every draw is first written down, by the name of its mechanism."""

    def __init__(self, witness: Path) -> None:
        super().__init__()
        self._witness = os.open(witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def gaussian(self, shape: Any, *, key: Any) -> Any:
        if key[0] in EVENTS:
            _write(self._witness, f"{key[0]}\n".encode())
        return super().gaussian(shape, key=key)

    def poisson_mask(self, n: int, rate: float, *, key: Any) -> Any:
        _write(self._witness, b"sample\n")
        return super().poisson_mask(n, rate, key=key)


def slowly(file: int, data: bytes) -> int:
    time.sleep(1e-3)
    return _write(file, data[:64])


def release(session: Session, step: int) -> None:
    units = PrivateUnits(torch.ones(20, 2))
    SUM.release(units, lambda rows, labels: np.asarray(rows, np.float64), session, step)
    weight = {"weight": torch.zeros(2)}
    STEP.release(units, lambda rows, labels: (rows[:, 0], {"weight": rows}), weight, session, step)


def release_until_killed(path: Path, witness: Path, run: str, disk: str, ready: Any) -> None:
    torch.set_num_threads(1)  # the threads of the parent did not come along
    if disk == "slow":
        os.write = slowly
    if disk == "quick":
        os.fsync = lambda file: None
    ready.set()
    noise = WitnessedNoise(witness)
    if path.exists():
        ledger = Ledger.open(path, run=run)
    else:
        ledger = Ledger.create(path, dataset="d", unit="image", noise_source="os", run=run)
    for step in range(10**6):
        release(Session(ledger, noise), step)


def kill_after(seconds: float, *arguments: Any) -> None:
    ready = FORK.Event()
    child = FORK.Process(target=release_until_killed, args=(*arguments, ready))
    child.start()
    ready.wait()
    time.sleep(seconds)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL, "the child ended by itself: it could not go on"


def drawn(witness: Path) -> Counter[str]:
    return Counter(witness.read_text().splitlines() if witness.exists() else [])


def assert_nothing_is_missing(ledger: Ledger, noted: Counter[str]) -> None:
    recorded = Counter({name: count for name, _, count in ledger.counted_events()})
    assert recorded["sum"] >= noted["sum"]
    assert recorded["DP-SGD step"] >= max(noted["DP-SGD step"], noted["sample"])


def assert_no_less_is_claimed(ledger: Ledger, noted: Counter[str]) -> None:
    spent = epsilon([(event, noted[name]) for name, event in EVENTS.items()], DELTA, "rdp")
    assert ledger.epsilon(DELTA, "rdp") >= spent > 0


def test_after_100_kills_the_ledger_never_held_less_than_was_drawn(tmp_path):
    path, witness = tmp_path / "ledger.jsonl", tmp_path / "witness"
    instants = random.Random(5)
    release(Session(None, SystemNoise()), 0)  # the children need not load what this has loaded
    torn = ahead = 0
    for kill in range(KILLS):
        disk = ("slow", "quick", "as it is")[kill % 3]
        kill_after(instants.uniform(0, LONGEST), path, witness, f"run {kill % 2}", disk)
        noted = drawn(witness)
        if not path.exists():
            assert not noted
            continue
        left = path.read_bytes()
        assert_nothing_is_missing(read_ledger(path), noted)
        if kill % 10 == 9:  # more records never cost less; the accountant is slow
            assert_no_less_is_claimed(read_ledger(path), noted)
        with Ledger.open(path) as ledger:
            assert_nothing_is_missing(ledger, noted)
            ahead += len(ledger) > noted["sum"] + noted["DP-SGD step"]
        torn += path.read_bytes() != left
    assert drawn(witness).total() > KILLS  # the children did get to work
    assert torn  # some kills came in the middle of a line
    assert ahead  # and some between a record and its noise


def test_the_witness_catches_noise_that_was_not_written_down_first(tmp_path, monkeypatch):
    witness = tmp_path / "witness"
    with Ledger.create(
        tmp_path / "ledger.jsonl", dataset="d", unit="image", noise_source="os"
    ) as ledger:
        session = Session(ledger, WitnessedNoise(witness))
        release(session, 0)
        assert_nothing_is_missing(ledger, drawn(witness))
        monkeypatch.setattr(Session, "spend", lambda session, mechanism, step: session.noise)
        release(session, 1)
        with pytest.raises(AssertionError):
            assert_nothing_is_missing(ledger, drawn(witness))


@pytest.mark.parametrize("kill", range(20))
def test_killed_while_it_is_made_there_is_a_ledger_to_go_on_with_or_none(tmp_path, kill):
    path, witness = tmp_path / "ledger.jsonl", tmp_path / "witness"
    kill_after(random.Random(kill).uniform(0, 0.03), path, witness, "run", "slow")
    if not path.exists():
        assert not drawn(witness)
        return
    with Ledger.open(path) as ledger:
        assert_nothing_is_missing(ledger, drawn(witness))
