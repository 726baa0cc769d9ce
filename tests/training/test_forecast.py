"""What a run would cost, timed as it would run."""

from __future__ import annotations

import pytest
import torch

from dpdm import memory
from dpdm.training import forecast, workers
from dpdm.training.run import train

CPU = torch.device("cpu")


@pytest.fixture
def two_lanes(monkeypatch):
    monkeypatch.setattr(forecast, "usable_lanes", lambda *_: 2)


def test_a_short_training_is_timed_in_this_process(digits, small, two_lanes, monkeypatch):
    monkeypatch.setattr(workers.subprocess, "Popen", lambda *_, **__: pytest.fail("a process"))
    found = forecast.forecast(small(), digits, CPU)
    assert found.seconds > 0
    assert found.memory_bytes > 0


def test_a_longer_one_is_timed_in_processes_whose_memory_counts(
    digits, small, two_lanes, monkeypatch
):
    monkeypatch.setattr(workers, "_WORTH_SECONDS", 0.0)
    monkeypatch.setattr(memory, "_largest_together", 0)
    monkeypatch.setattr(memory, "resident_memory", lambda: 0)
    monkeypatch.setattr(forecast, "peak_memory", lambda _: memory._largest_together)
    found = forecast.forecast(small(), digits, CPU)
    assert found.seconds > 0
    assert found.memory_bytes > 2 * 100 * 2**20  # two processes, each with torch in it


@pytest.mark.parametrize(("enough", "rounds"), [(0.0, 2), (1e9, 3)])
def test_long_rounds_are_timed_less_often(digits, small, monkeypatch, enough, rounds):
    monkeypatch.setattr(forecast, "usable_lanes", lambda *_: 1)
    monkeypatch.setattr(forecast, "_ENOUGH_SECONDS", enough)
    called, clip = [], forecast.clip_and_sum
    monkeypatch.setattr(forecast, "clip_and_sum", lambda *a: called.append(a) or clip(*a))
    assert forecast.forecast(small("labeller.enabled=false"), digits, CPU).seconds > 0
    assert len(called) == rounds


def test_without_gradient_steps_nothing_is_timed(digits, small):
    found = forecast.forecast(small("training.steps=0"), digits, CPU)
    assert found.seconds == 0
    assert found.signal_to_noise is None


@pytest.mark.parametrize(
    "told", [(), ("prior.normalise=affine", "prior.augment=1", "prior.texture=true")]
)
def test_it_says_what_the_prior_was_told_of_the_images(digits, small, told):
    found = forecast.forecast(small("training.steps=0", *told), digits, CPU)
    assert found.prior_knows == told
    said = dict(found.rows())["prior knows of the images"]
    assert said == (
        ", ".join(told)
        or "nothing; prior.normalise, prior.augment and prior.texture say what is public"
    )


def test_without_a_prior_nothing_is_said_of_what_it_knows(digits, small):
    found = forecast.forecast(small("prior.enabled=false", "diffusion.base=skip"), digits, CPU)
    assert found.prior_knows is None
    assert "prior knows of the images" not in dict(found.rows())


def test_a_run_warns_of_small_data_as_its_plan_does(digits, small, tmp_path):
    config = small("privacy.epsilon=0.05", "training.max_steps=0")
    planned = forecast.forecast(config, digits, CPU).warnings
    assert sum("the data is small for this epsilon" in warning for warning in planned) == 2
    told: list[str | None] = []
    train(digits, config, tmp_path / "run", callback=lambda event: told.append(event.message))
    assert {f"warning: {warning}" for warning in planned} <= set(told)
