"""Rows taken for the wrong unit's are noticed, also where a first gradient is zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpdm.privacy.gradients import per_unit_gradients


class Transposed(nn.Module):
    """Flattens (time, batch): 4 rows of 4 positions look like 4 positions of 4 rows."""

    def __init__(self, start_at_zero: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.outer = nn.Linear(3, 3)
        if start_at_zero:
            nn.init.zeros_(self.outer.weight)
            nn.init.zeros_(self.outer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        tokens = x.transpose(0, 1).reshape(t * n, c)
        tokens = self.inner(tokens).view(t, n, c).transpose(0, 1)
        return self.outer(tokens)


def loss(module, x):
    return (module(x) - 1).square().flatten(1).sum(1)


@pytest.mark.filterwarnings("ignore:per_unit_gradients passes units one by one")
@pytest.mark.parametrize("start_at_zero", [True, False])
def test_a_layout_that_is_guessed_wrong_never_gives_a_wrong_gradient(oracle, start_at_zero):
    module = Transposed(start_at_zero).double()
    x = torch.randn(4, 4, 3, dtype=torch.float64)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(3):
        _, gradients = per_unit_gradients(module, loss, (x,), views=2)
        _, expected = oracle.loop(module, loss, (x,), 2)
        for name, reference in expected.items():
            torch.testing.assert_close(gradients[name], reference, rtol=1e-10, atol=1e-14)
        optimiser.zero_grad()
        loss(module, x).mean().backward()
        optimiser.step()


def test_a_layer_that_starts_at_zero_is_looked_at_when_it_moves(recwarn):
    module, x = Transposed(start_at_zero=True), torch.randn(4, 4, 3)
    per_unit_gradients(module, loss, (x,), views=2)
    assert not [w for w in recwarn if "one by one" in str(w.message)]
    with torch.no_grad():
        module.outer.weight.fill_(0.3)
    with pytest.warns(UserWarning, match="one by one"):
        per_unit_gradients(module, loss, (x,), views=2)


def test_a_gradient_that_overflows_in_one_unit_does_not_stop_the_others(oracle):
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    x = torch.randn(6, 3)
    x[2] = 1e25
    _, gradients = per_unit_gradients(module, loss, (x,), views=2)
    _, expected = oracle.loop(module, loss, (x,), 2)
    assert not gradients["0.weight"][1].isfinite().all()
    for name, reference in expected.items():
        torch.testing.assert_close(gradients[name][[0, 2]], reference[[0, 2]])
