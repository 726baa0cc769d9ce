"""The oracle: a loop over units, each with an ordinary gradient of its own mean loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpdm.privacy.gradients import per_unit_gradients

Loss = Callable[..., Tensor]


def squared(module: nn.Module, *inputs: Tensor) -> Tensor:
    """One loss for each row: the mean square of everything the module returns for it."""
    output = module(*inputs)
    output = output[0] if isinstance(output, tuple) else output
    return output.square().flatten(1).mean(1)


def loop(
    module: nn.Module, loss: Loss, inputs: tuple[Tensor, ...], views: int
) -> tuple[Tensor, dict[str, Tensor]]:
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    units = len(inputs[0]) // views
    means, rows = [], []
    for u in range(units):
        mean = loss(module, *(x[u * views : (u + 1) * views] for x in inputs)).mean()
        means.append(mean.detach())
        rows.append(torch.autograd.grad(mean, list(parameters.values()), materialize_grads=True))
    columns = zip(*rows, strict=True)
    gradients = {name: torch.stack(g) for name, g in zip(parameters, columns, strict=True)}
    return torch.stack(means), gradients


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Equal to ``tolerance``, relative to the largest entry of each parameter's gradients.

    Gradients that vanish in exact arithmetic (an attention's key bias) are rounding only, so a
    parameter's scale is at least 1e-4 of the largest of all.
    """
    assert list(found) == list(expected)
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, reference in expected.items():
        assert found[name].shape == reference.shape, name
        scale = max(float(reference.abs().max()), 1e-4 * largest)
        assert float((found[name] - reference).abs().max()) <= tolerance * scale, name


class Oracle:
    """Holds per_unit_gradients against the loop."""

    squared = staticmethod(squared)
    loop = staticmethod(loop)
    assert_equal = staticmethod(assert_equal)

    def check(
        self,
        module: nn.Module,
        *inputs: Tensor,
        views: int,
        loss: Loss = squared,
        slower: bool = False,
    ) -> dict[str, Tensor]:
        """In float64 to 1e-10, in one shared pass; ``slower``: unit by unit, which warns."""
        module = module.double()
        inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses, gradients = per_unit_gradients(module, loss, inputs, views=views)
        assert any("one by one" in str(w.message) for w in caught) == slower, [
            str(w.message) for w in caught
        ]
        expected_losses, expected = loop(module, loss, inputs, views)
        torch.testing.assert_close(losses, expected_losses, rtol=1e-10, atol=0)
        assert_equal(gradients, expected, 1e-10)
        return gradients


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture(autouse=True)
def _one_seed_one_thread() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
