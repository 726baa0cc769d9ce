"""Each mechanism's sensitivity by brute force, its noise by statistics, its event in the ledger."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dpdm.privacy import DpSgdStep, Ledger, NoisedScatter, NoisedSum, PrivateUnits, Session
from dpdm.promise.planning import gaussian, poisson_sampled_gaussian
from dpdm.training.seeded_noise import SeededNoise

vectors = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.just(3)),
    elements=st.floats(-1e6, 1e6, allow_subnormal=False),
)


@pytest.fixture
def session(tmp_path: Path):
    ledger = Ledger.create(tmp_path / "ledger.jsonl", dataset="d", unit="image", noise_source="s")
    with ledger:
        yield Session(ledger, SeededNoise(0))


@settings(max_examples=200, deadline=None)
@given(vectors, st.floats(0.01, 100), st.integers(0, 1))
def test_adding_one_unit_moves_a_noised_sum_by_at_most_its_clip_norm(data, max_norm, segment):
    mechanism = NoisedSum("sum", 1.0, max_norm, segments=2)
    segments = np.arange(len(data)) % 2
    segments[-1] = segment
    change = mechanism.exact(data, segments) - mechanism.exact(data[:-1], segments[:-1])
    # Rounding of the other units' sum, not of the clipping, is the slack.
    assert np.linalg.norm(change) <= max_norm * (1 + 1e-12)


@settings(max_examples=200, deadline=None)
@given(vectors, st.floats(0.01, 100), st.integers(0, 1))
def test_adding_one_unit_moves_a_scatter_by_at_most_the_clip_norm_squared(data, max_norm, segment):
    mechanism = NoisedScatter("scatter", 1.0, max_norm, segments=2)
    segments = np.arange(len(data)) % 2
    segments[-1] = segment
    change = mechanism.exact(data, segments) - mechanism.exact(data[:-1], segments[:-1])
    assert np.linalg.norm(change) <= max_norm**2 * (1 + 1e-12)


def test_a_unit_that_is_not_finite_counts_as_zero():
    data = np.array([[1.0, 2.0], [np.nan, 1.0], [np.inf, 0.0]])
    np.testing.assert_allclose(NoisedSum("sum", 1.0, 10.0).exact(data), [[1.0, 2.0]])


@pytest.mark.parametrize("groups", [None, np.array([0, 1, 2, 0, 1, 0, 3, 3, 3, 3])])
def test_blocks_of_images_add_up_to_what_all_together_give(monkeypatch, groups):
    rows = np.random.default_rng(0).standard_normal((10, 3))
    labels = np.arange(10) % 2
    units = PrivateUnits(rows, labels, groups)
    noiseless = Session(None, SeededNoise(0))
    weights = np.ones(10) if groups is None else 1 / np.bincount(groups)[groups]
    weighed, seen = rows * weights[:, None], []

    def contribution(rows, labels):
        seen.append(len(rows))
        return 2 * rows, labels

    def scatter(segment):
        return 4 * rows[labels == segment].T @ weighed[labels == segment]

    monkeypatch.setattr("dpdm.privacy.units._BLOCK", 4)
    for mechanism, expected in (
        (NoisedSum("sum", 1.0, 1.0, 2), [2 * weighed[labels == s].sum(0) for s in (0, 1)]),
        (NoisedScatter("scatter", 1.0, 1.0, 2), [scatter(0), scatter(1)]),
    ):
        found = mechanism.release(units, contribution, noiseless)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert seen[-3:] == [4, 4, 2]


def test_a_noised_sum_carries_noise_of_its_multiplier_times_its_clip_norm(session):
    released = NoisedSum("sum", 3.0, 2.0).release(
        PrivateUnits(np.zeros((5, 40_000))), as_given, session
    )
    assert released.std() == pytest.approx(6.0, rel=0.02)


def test_the_noise_of_a_scatter_is_symmetric_and_isotropic_in_the_space_of_symmetric_matrices(
    session,
):
    noise = NoisedScatter("scatter", 3.0, 2.0).release(
        PrivateUnits(np.zeros((2, 300))), as_given, session
    )[0]
    np.testing.assert_array_equal(noise, noise.T)
    off_diagonal = noise[np.triu_indices(300, 1)]
    assert off_diagonal.std() * math.sqrt(2) == pytest.approx(12.0, rel=0.02)
    assert np.diag(noise).std() == pytest.approx(12.0, rel=0.15)


def test_a_release_is_in_the_ledger_before_its_noise_is_drawn(tmp_path: Path):
    class Failing(SeededNoise):
        private = True

        def gaussian(self, shape, *, key):
            raise RuntimeError("the machine stopped here")

    with Ledger.create(
        tmp_path / "ledger.jsonl", dataset="d", unit="image", noise_source="s"
    ) as ledger:
        units = PrivateUnits(np.zeros((5, 2)))
        with pytest.raises(RuntimeError):
            NoisedSum("sum", 3.0, 2.0).release(units, as_given, Session(ledger, Failing(0)))
        assert ledger.counted_events() == [("sum", gaussian(3.0), 1)]


def given_gradients(rows, labels):
    """The gradient of a unit is its row."""
    return rows.norm(dim=1), {"weight": rows}


def weight(gradients: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"weight": torch.zeros(gradients.shape[1])}


def take(mechanism: DpSgdStep, gradients: torch.Tensor, session: Session, number: int = 0):
    units = PrivateUnits(gradients)
    return mechanism.release(units, given_gradients, weight(gradients), session, number)


def as_given(rows, labels):
    """The vector of an image is its row."""
    return rows


def step(**changes) -> DpSgdStep:
    values = {
        "sample_rate": 1.0,
        "noise_multiplier": 1e-6,
        "max_grad_norm": 1.0,
        "expected_units": 10.0,
        "microbatch": 4,
    }
    return DpSgdStep(**(values | changes))


def test_a_step_is_the_clipped_sum_over_the_expected_units(session):
    gradients = torch.randn(11, 5, generator=torch.Generator().manual_seed(0))
    released, _ = take(step(), gradients, session)
    norms = gradients.norm(dim=1, keepdim=True)
    expected = (gradients / norms.clamp(min=1.0)).sum(0) / 10.0
    torch.testing.assert_close(released["weight"], expected, rtol=1e-4, atol=1e-5)


def test_the_divisor_is_public_and_not_the_realised_batch(session):
    gradients = torch.full((8, 1), 0.5)
    for count in (2, 8):
        released, _ = take(step(), gradients[:count], session, count)
        assert float(released["weight"]) == pytest.approx(0.05 * count, rel=1e-3)


def test_an_empty_batch_is_a_step_with_noise_that_the_ledger_counts(session):
    mechanism = step(sample_rate=1e-9, noise_multiplier=2.0, expected_units=1.0)
    released, seen = take(mechanism, torch.ones(3, 20_000), session)
    assert seen.private_units == 0
    assert float(released["weight"].std()) == pytest.approx(2.0, rel=0.03)
    assert session.ledger.count(poisson_sampled_gaussian(1e-9, 2.0)) == 1


def test_padding_has_no_weight(session):
    gradients = torch.eye(5)
    whole, _ = take(step(microbatch=5), gradients, session, 0)
    padded, _ = take(step(microbatch=3), gradients, session, 1)
    torch.testing.assert_close(whole["weight"], padded["weight"], rtol=1e-3, atol=1e-5)


def test_a_unit_whose_gradient_is_not_finite_counts_as_zero_and_is_only_counted_privately(session):
    gradients = torch.tensor([[0.5], [float("nan")], [float("inf")]])
    released, seen = take(step(), gradients, session)
    assert float(released["weight"]) == pytest.approx(0.05, rel=1e-3)
    assert seen.private_nonfinite_units == 2


def test_units_are_drawn_independently_at_the_sample_rate(session):
    sizes = []
    for number in range(200):
        mechanism = step(sample_rate=0.25, microbatch=64)
        _, seen = take(mechanism, torch.zeros(400, 1), session, number)
        sizes.append(seen.private_units)
    assert np.mean(sizes) == pytest.approx(100, rel=0.03)
    assert np.std(sizes) == pytest.approx(math.sqrt(400 * 0.25 * 0.75), rel=0.2)


def test_without_privacy_nothing_is_clipped_and_no_noise_is_added():
    gradients = torch.tensor([[3.0], [4.0]])
    released, _ = take(step(), gradients, Session(None, SeededNoise(0)))
    assert float(released["weight"]) == pytest.approx(0.7)
