"""Faults planted in the production code: the audit's bound exceeds the claim, or a check names it.

Mechanisms alone, a second each: canaries on steps of DP-SGD, or on statistics, and no network. A
fault is a change of the source text of one method.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from dpdm.audit.attack import AuditSession, Witness, correct_guesses
from dpdm.audit.bounds import one_run_epsilon
from dpdm.audit.canaries import ENTRY, Canaries, CanaryUnits
from dpdm.audit.checks import all_checks
from dpdm.errors import DpdmError
from dpdm.privacy import (
    DpSgdStep,
    Event,
    Ledger,
    NoisedScatter,
    NoisedSum,
    PrivateUnits,
    SystemNoise,
    mechanisms,
    noise,
)
from dpdm.promise.planning import gaussian
from dpdm.training.seeded_noise import SeededNoise

DELTA, CONFIDENCE = 1e-5, 0.95
MEMBERS, BLANKS = 500, 256
STEP = DpSgdStep(0.5, 2.0, max_grad_norm=2.0, expected_units=150.0, microbatch=200)


@dataclass(frozen=True)
class Verdict:
    bound: float
    claimed: float
    failed: str


def steps(units, session, number: int = 6) -> None:
    """DP-SGD where an image's gradient is the image; of a network too, the entry comes first."""
    take(STEP, units, session, number)


def take(mechanism: DpSgdStep, units, session, number: int) -> None:
    like = {ENTRY: torch.zeros(MEMBERS + BLANKS), "weight": torch.zeros(5)}
    for step in range(number):
        mechanism.release(
            units,
            lambda rows, _: (torch.zeros(len(rows)), {"weight": rows.float()}),
            like,
            session,
            step,
        )


def many_steps(units, session) -> None:
    """Enough of them for what only many can show."""
    steps(units, session, 24)


def two_kinds_of_steps(units, session) -> None:
    """A labeller's, and those of a network."""
    labeller = replace(STEP, sample_rate=0.8, noise_multiplier=5.0, name="labeller step")
    take(labeller, units, session, 24)
    take(STEP, units, session, 24)


def small_statistic(units, session) -> None:
    """Five values."""
    NoisedSum("sum", 2.0, 0.5).release(units, lambda rows, _: rows, session)


def statistics(units, session) -> None:
    """A sum of vectors, and a scatter in three segments."""
    NoisedSum("sum", 2.0, 0.5).release(units, lambda rows, _: np.tile(rows, 100), session)
    NoisedScatter("scatter", 0.7, 3.0, 3).release(
        units, lambda rows, _: (np.tile(rows, 8), np.arange(len(rows)) % 3), session
    )


@pytest.fixture
def audit(tmp_path: Path) -> Callable[..., Verdict]:
    torch.set_num_threads(1)

    def run(release, source=None, seed: int = 0, nobody: bool = False) -> Verdict:
        canaries = Canaries(MEMBERS, BLANKS, np.random.default_rng(seed))
        canaries.included &= not nobody
        witness, source = Witness(canaries), source or SystemNoise()
        images = torch.from_numpy(np.random.default_rng(1).standard_normal((40, 5)))
        path = tmp_path / f"{release.__name__}-{seed}.jsonl"
        with Ledger.create(path, dataset="d", unit="image", noise_source="s") as ledger:
            release(
                CanaryUnits(PrivateUnits(images), canaries), AuditSession(ledger, source, witness)
            )
            claimed = ledger.epsilon(DELTA, "pld")
        guesses = witness.guesses(DELTA, CONFIDENCE)
        correct = correct_guesses(witness.scores(), canaries.included, guesses)
        bound = one_run_epsilon(MEMBERS, guesses, correct, DELTA, CONFIDENCE)
        checks = all_checks(witness, source, ledger)
        failed = [check.name for check in checks if not check.passed]
        return Verdict(bound, claimed, "; ".join(failed))

    return run


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``plant(module, owner, method, old, new)`` changes the text of a method."""

    texts: dict[tuple[type, str], str] = {}

    def change(module: ModuleType, owner: type, method: str, old: str, new: str) -> None:
        original = getattr(owner, method)
        source = texts.get((owner, method)) or textwrap.dedent(inspect.getsource(original))
        assert source.count(old) == 1, f"{owner.__name__}.{method} no longer holds {old!r}"
        names: dict[str, object] = {}
        texts[owner, method] = source.replace(old, new)
        code = "from __future__ import annotations\n" + texts[owner, method]
        exec(code, module.__dict__, names)
        monkeypatch.setattr(owner, method, names[method])

    return change


@pytest.mark.parametrize(("release", "power"), [(steps, 0.15), (statistics, 0.15)])
def test_without_a_fault_twenty_audits_exceed_the_claim_no_more_often_than_they_may(
    audit, release, power
):
    verdicts = [audit(release, seed=seed) for seed in range(20)]
    # Each may with probability 0.05: 5 or more of 20 has probability 0.003.
    assert sum(verdict.bound > verdict.claimed for verdict in verdicts) < 5
    assert [verdict.failed for verdict in verdicts] == [""] * 20
    assert np.mean([verdict.bound / verdict.claimed for verdict in verdicts]) > power


def test_half_the_noise_in_a_step_is_caught(audit, plant):
    plant(mechanisms, DpSgdStep, "_add_noise", "self.noise_mult", "0.5 * self.noise_mult")
    assert "DP-SGD step: noise as claimed" in audit(steps).failed


def test_half_the_noise_in_a_statistic_is_caught(audit, plant):
    plant(mechanisms, mechanisms._GaussianRelease, "release", "self.dev", "0.5 * self.dev")
    failed = audit(statistics).failed
    assert "sum: noise as claimed" in failed
    assert "scatter: noise as claimed" in failed


@pytest.mark.parametrize("share", ["0.5", "0.1"])
def test_little_noise_in_a_statistic_of_a_few_values_is_caught(audit, plant, share):
    plant(mechanisms, mechanisms._GaussianRelease, "release", "self.dev", f"{share} * self.dev")
    assert "sum: noise as claimed in every segment" in audit(small_statistic).failed


def test_noise_on_the_first_parameter_alone_is_caught(audit, plant):
    """Which is where the canaries are."""
    first = "value is next(iter(total.values()))"
    plant(mechanisms, DpSgdStep, "_add_noise", "part.view(", f"({first}) * part.view(")
    assert "DP-SGD step: noise as claimed in every parameter" in audit(steps).failed


def test_the_same_noise_on_every_parameter_is_caught(audit, plant):
    plant(mechanisms, DpSgdStep, "_add_noise", "part.view(", "moved[: len(part)].view(")
    assert "DP-SGD step: each value has noise of its own" in audit(steps).failed


def test_an_empty_sample_without_noise_is_caught(audit, plant):
    plant(mechanisms, DpSgdStep, "release", "if noise:", "if noise and len(chosen):")
    assert "DP-SGD step: noise as claimed in every parameter" in audit(steps).failed


def test_each_kind_of_step_is_compared_with_its_own_claim(audit):
    assert audit(two_kinds_of_steps).failed == ""


def test_half_the_noise_in_the_second_kind_of_steps_is_caught(audit, plant):
    share = "(0.5 if self.name == 'DP-SGD step' else 1.0)"
    plant(mechanisms, DpSgdStep, "_add_noise", "self.noise_mult", f"{share} * self.noise_mult")
    failed = audit(two_kinds_of_steps).failed
    assert "DP-SGD step: noise as claimed" in failed
    assert "labeller step" not in failed


def test_an_event_with_twice_the_noise_is_caught(audit, monkeypatch):
    event = property(lambda self: Event(2 * self.noise_multiplier, self.sample_rate))
    monkeypatch.setattr(DpSgdStep, "event", event)
    assert audit(steps).failed == "the ledger holds what was published"


def test_steps_that_are_not_written_down_are_caught(audit, monkeypatch):
    whole = Ledger.record

    def every_other(self, name, event, /, **params):
        if params["step"] % 2 == 0:
            whole(self, name, event, **params)

    monkeypatch.setattr(Ledger, "record", every_other)
    assert audit(steps).failed == "the ledger holds what was published"


def test_a_ledger_that_holds_more_than_was_published_is_none_the_worse(audit):
    def stopped_once(units, session) -> None:
        session.ledger.record(STEP.name, STEP.event, step=0)
        steps(units, session)

    assert audit(stopped_once).failed == ""


@pytest.mark.parametrize("release", [steps, statistics])
def test_without_a_canary_in_the_data_the_other_checks_are_made(audit, release):
    assert audit(release, nobody=True).failed == ""


def test_a_step_without_clipping_is_caught(audit, plant):
    plant(
        mechanisms,
        DpSgdStep,
        "release",
        "clip_and_sum(gradients, max_norm",
        "clip_and_sum(gradients, math.inf",
    )
    verdict = audit(steps)
    assert verdict.bound > verdict.claimed
    assert "DP-SGD step: one unit moves" in verdict.failed


@pytest.mark.parametrize(("owner", "name"), [(NoisedSum, "sum"), (NoisedScatter, "scatter")])
def test_a_statistic_without_clipping_is_caught(audit, plant, owner, name):
    plant(mechanisms, owner, "exact", "clip_rows(vectors, self.max_norm)", "vectors.copy()")
    failed = audit(statistics).failed
    assert f"{name}: one unit moves" in failed
    assert f"{name}: noise as claimed, and nothing else" in failed


@pytest.mark.parametrize("divisor", ["max(len(chosen), 1)", "(rate * count)"])
def test_a_normaliser_from_the_data_is_caught(audit, plant, divisor):
    plant(mechanisms, DpSgdStep, "release", "value / self.expected_units", f"value / {divisor}")
    assert "DP-SGD step: one unit moves" in audit(steps).failed


def test_the_same_batch_in_every_step_is_caught(audit, plant, monkeypatch):
    monkeypatch.setattr(mechanisms, "SeededNoise", SeededNoise, raising=False)
    keyed = 'key=(f"sample of {self.name}", step)'
    plant(mechanisms, DpSgdStep, "release", keyed, 'key=("sample",)')
    plant(
        mechanisms,
        DpSgdStep,
        "release",
        "session.noise.poisson_mask",
        "SeededNoise(1).poisson_mask",
    )
    assert "each step has a sample of its own" in audit(many_steps).failed


def test_a_sample_larger_than_accounted_is_caught(audit, plant):
    plant(mechanisms, DpSgdStep, "release", "self.sample_rate", "1.6 * self.sample_rate")
    assert "a unit is in a step with the sample rate" in audit(many_steps).failed


@pytest.mark.parametrize("release", [steps, statistics])
def test_noise_of_a_chosen_seed_is_caught(audit, release):
    assert "noise cannot be drawn again" in audit(release, SeededNoise(7)).failed


def test_the_same_noise_in_every_step_is_caught(audit, plant):
    words = "return np.random.Philox(0).random_raw  #"
    plant(noise, SystemNoise, "_words", "return", words)
    failed = audit(steps).failed
    assert "noise cannot be drawn again" in failed
    assert "each step has noise of its own" in failed


def test_a_generator_seeded_when_it_is_made_is_caught(audit, monkeypatch):
    """Its noise differs from step to step, but is the same in the next run."""
    generator = np.random.Philox(3)
    source = SystemNoise()
    source.generator = generator
    monkeypatch.setattr(SystemNoise, "_words", lambda self, key: self.generator.random_raw)
    failed = audit(steps, source).failed
    assert "noise cannot be drawn again" in failed
    assert "each step has noise of its own" not in failed


def test_a_mechanism_that_the_audit_does_not_know_is_refused():
    @dataclass(frozen=True)
    class Unknown:
        name: str = "median"
        event = gaussian(1.0)

    with pytest.raises(DpdmError, match="median: the audit has no attack"):
        Witness(Canaries(10, 1, np.random.default_rng(0))).see(Unknown(), np.zeros(3))
