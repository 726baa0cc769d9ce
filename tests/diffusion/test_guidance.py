"""Conditioning and classifier-free guidance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpdm.diffusion.guidance import condition
from dpdm.errors import RequestError

X = torch.arange(3.0).reshape(3, 1, 1, 1)
SIGMA = torch.tensor([1.0, 2.0, 3.0])
LABELS = torch.tensor([4, 5, 6])


class Recorder:
    """D(x; sigma, y) = 10 y + x + sigma / 10, and the batches it was asked for."""

    def __init__(self) -> None:
        self.batches: list[list[int] | None] = []

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        self.batches.append(None if labels is None else labels.tolist())
        label = 0.0 if labels is None else labels.reshape(-1, 1, 1, 1)
        return 10.0 * label + x + sigma.reshape(-1, 1, 1, 1) / 10.0


def test_without_guidance_the_labels_are_passed_once() -> None:
    denoiser = Recorder()
    estimate = condition(denoiser, LABELS)(X, SIGMA)
    assert denoiser.batches == [[4, 5, 6]]
    torch.testing.assert_close(estimate, denoiser(X, SIGMA, LABELS))


def test_guidance_moves_away_from_the_unconditional_estimate() -> None:
    denoiser = Recorder()
    estimate = condition(denoiser, LABELS, guidance=0.25)(X, SIGMA)
    conditional = denoiser(X, SIGMA, LABELS)
    unconditional = denoiser(X, SIGMA, torch.full((3,), -1))
    torch.testing.assert_close(estimate, 1.25 * conditional - 0.25 * unconditional)


def test_guidance_takes_one_doubled_batch_half_of_it_without_label() -> None:
    denoiser = Recorder()
    condition(denoiser, LABELS, guidance=1.0)(X, SIGMA)
    assert denoiser.batches == [[4, 5, 6, -1, -1, -1]]


def test_a_model_without_classes_is_passed_no_labels() -> None:
    denoiser = Recorder()
    condition(denoiser, None)(X, SIGMA)
    assert denoiser.batches == [None]


def test_guidance_without_classes_is_refused() -> None:
    with pytest.raises(RequestError, match=r"sampling\.guidance=0\.5 needs a model with classes"):
        condition(Recorder(), None, guidance=0.5)


def test_guidance_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(RequestError, match="not a finite number"):
        condition(Recorder(), LABELS, guidance=float("nan"))
