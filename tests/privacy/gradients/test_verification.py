"""Rows taken for the wrong unit's are noticed, also where a first gradient is zero."""

from __future__ import annotations

import gc
from functools import partial
from types import SimpleNamespace
from weakref import ref

import pytest
import torch
from torch import nn

from dpdm.privacy.gradients import UnsupportedModuleError, per_unit_gradients
from dpdm.privacy.gradients.verification import known


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


def centred_where(mix, module, x):
    losses = loss(module, x)
    return losses - losses.mean() if mix else losses


class Way:
    def __init__(self, mix: bool) -> None:
        self.mix = mix

    def loss(self, module, x):
        return centred_where(self.mix, module, x)

    __call__ = loss


def closing_over(mix):
    return lambda module, x: centred_where(mix, module, x)


def with_a_default(mix):
    def chosen(module, x, mix=mix):
        return centred_where(mix, module, x)

    return chosen


WAYS = {
    "argument of a partial": lambda mix: partial(centred_where, mix),
    "closure": closing_over,
    "closure in a partial": lambda mix: partial(closing_over(mix)),
    "default": with_a_default,
    "object of a method": lambda mix: Way(mix).loss,
    "callable object": Way,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_that_mixes_is_found_after_one_of_the_same_code_that_does_not(way):
    module, x = nn.Linear(3, 1), torch.randn(6, 3)
    per_unit_gradients(module, WAYS[way](False), (x,), views=2)
    with pytest.raises(UnsupportedModuleError, match="loss"):
        per_unit_gradients(module, WAYS[way](True), (x,), views=2)


def test_a_loss_that_is_made_anew_for_every_step_is_looked_at_once():
    module, x = nn.Linear(3, 1), torch.randn(6, 3)
    for way in ("argument of a partial", "closure", "closure in a partial", "default"):
        per_unit_gradients(module, WAYS[way](False), (x,), views=2)
        found = known(module, WAYS[way](False), (x,), 2)
        assert found.settled


def test_what_is_known_of_a_module_does_not_keep_it():
    def used(module):
        own = SimpleNamespace(module=module)
        per_unit_gradients(module, lambda _, x: loss(own.module, x), (torch.randn(6, 3),))
        per_unit_gradients(module, lambda _, x, own=module: loss(own, x), (torch.randn(6, 3),))
        return ref(module)

    gone = used(nn.Linear(3, 1))
    gc.collect()
    assert gone() is None
