"""Gradients in processes of their own: the same training, however the processes fare."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from dpdm.lanes import Lanes
from dpdm.networks import load_weights
from dpdm.privacy import clip_and_sum
from dpdm.release.build import build_denoiser
from dpdm.training import trainer, workers
from dpdm.training.run import train
from dpdm.training.view_gradients import ViewGradients
from dpdm.training.workers import Workers

UNITS = 6


@pytest.fixture
def take(small) -> ViewGradients:
    torch.manual_seed(0)
    denoiser = build_denoiser(small("prior.enabled=false"), (1, 8, 8), 10, None)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return ViewGradients(small("prior.enabled=false"), denoiser, seed=3)


@pytest.fixture
def microbatches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(0, 256, (UNITS, 8, 8, 1), generator=draw, dtype=torch.uint8),
            torch.randint(0, 10, (UNITS,), generator=draw),
        )
        for _ in range(4)
    ]


def sums(gradients, lanes, microbatches):
    weights = torch.tensor([1.0] * (UNITS - 1) + [0.0])

    def one(number):
        losses, found = gradients(0, number, *microbatches[number])
        return losses, clip_and_sum(found, 0.3, weights)

    return list(lanes.map(one, range(len(microbatches))))


def assert_same(found, expected):
    for (losses, one), (others, other) in zip(found, expected, strict=True):
        assert torch.equal(losses, others)
        assert torch.equal(one.norms, other.norms)
        assert torch.equal(one.nonfinite, other.nonfinite)
        assert list(one.sums) == list(other.sums)
        for name, value in one.sums.items():
            assert torch.equal(value, other.sums[name]), name


def started(processes: Workers) -> list[int]:
    processes.prepare(seconds_left=1000)
    assert processes.wait()
    return [worker.pid for worker in processes._workers]


def ended(pid: int) -> bool:
    """Whether there is no such process, or only what its parent has not asked about yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_processes_give_what_threads_give_and_follow_the_parameters(take, microbatches):
    with Lanes(2) as lanes, Workers(take, UNITS, 2) as processes:
        expected = sums(take, lanes, microbatches)
        assert_same(sums(processes, lanes, microbatches), expected)  # not at work yet
        started(processes)
        assert_same(sums(processes, lanes, microbatches), expected)

        with torch.no_grad():
            for parameter in take.denoiser.network.parameters():
                parameter.mul_(1.1)
        changed = sums(take, lanes, microbatches)
        assert not torch.equal(changed[0][0], expected[0][0])
        processes.prepare(seconds_left=0)
        assert_same(sums(processes, lanes, microbatches), changed)


def test_processes_end_with_the_training(take, microbatches):
    with Lanes(2) as lanes, Workers(take, UNITS, 2) as processes:
        pids = started(processes)
        sums(processes, lanes, microbatches)
        assert not any(ended(pid) for pid in pids)
    assert all(ended(pid) for pid in pids)


def test_a_process_that_hangs_is_ended_with_the_training(take, microbatches):
    with Lanes(2) as lanes:
        with Workers(take, UNITS, 2) as processes:
            pids = started(processes)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            processes.prepare(seconds_left=0)
            pending = lanes.map(lambda number: processes(0, number, *microbatches[number]), [0, 1])
        with pytest.raises(RuntimeError, match="has ended"):
            list(pending)
        deadline = time.monotonic() + 30
        while not all(ended(pid) for pid in pids):
            assert time.monotonic() < deadline


@pytest.mark.parametrize("when", ["between steps", "before it clips"])
def test_a_lost_process_costs_a_warning_and_no_number(take, microbatches, when):
    with Lanes(2) as lanes, Workers(take, UNITS, 2) as processes:
        expected = sums(take, lanes, microbatches)
        pids = started(processes)
        sums(processes, lanes, microbatches)
        if when == "between steps":
            os.kill(pids[0], signal.SIGKILL)
            with pytest.warns(UserWarning, match="was lost.*goes on in a thread"):
                found = sums(processes, lanes, microbatches)
            assert_same(found, expected)
        else:

            def one(number):
                losses, held = processes(0, number, *microbatches[number])
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                return losses, clip_and_sum(held, 0.3, torch.tensor([1.0] * 5 + [0.0]))

            with pytest.warns(UserWarning, match="was lost"):
                found = list(lanes.map(one, range(4)))
            assert_same(found, expected)
        processes.prepare(seconds_left=0)
        assert_same(sums(processes, lanes, microbatches), expected)


def test_a_process_that_cannot_start_leaves_the_threads_at_work(take, microbatches, monkeypatch):
    monkeypatch.setattr(workers, "_START", "raise SystemExit(3)")
    with Lanes(2) as lanes, Workers(take, UNITS, 2) as processes:
        started(processes)
        with pytest.warns(UserWarning, match="was lost"):
            found = sums(processes, lanes, microbatches)
        assert_same(found, sums(take, lanes, microbatches))


@pytest.mark.parametrize("why", ["one lane", "soon over", "no memory", "no interpreter"])
def test_no_process_is_started_where_it_does_not_pay(take, why, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process"))
    if why == "no memory":
        monkeypatch.setattr(workers, "available_memory", lambda: 2.0**30)
    if why == "no interpreter":
        monkeypatch.setattr(sys, "executable", "")
    with Workers(take, UNITS, 1 if why == "one lane" else 2) as processes:
        processes.prepare(seconds_left=5 if why == "soon over" else 1000)
        assert not processes.wait()


def test_a_training_with_processes_is_the_training_without(digits, small, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "usable_lanes", lambda *_: 2)
    prepare, at_work, weights = Workers.prepare, [], []

    def start_and_wait(self: Workers, seconds_left: float) -> None:
        prepare(self, seconds_left + 1000)
        if seconds_left and self.wait():
            at_work.append(self)

    for name in ("without", "with"):
        settings = small("privacy.noise_seed=1", "training.microbatch=32")
        run = train(digits, settings, tmp_path / name)
        weights.append(load_weights(run.release / "model.safetensors")[0])
        monkeypatch.setattr(Workers, "prepare", start_and_wait)
    assert len(at_work) == 5  # all steps but the first
    assert not any(processes.at_work for processes in at_work)
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
