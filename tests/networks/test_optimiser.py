"""Adam against torch's own class, and its state on disk."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from dpdm.errors import DpdmError
from dpdm.networks import Adam, half_cosine


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))


def gradients(module: nn.Module, step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        n: torch.randn(p.shape, generator=generator) / (step + 1)
        for n, p in module.named_parameters()
    }


@pytest.mark.parametrize("fused", [False, True])
def test_it_moves_as_torchs_class_does(fused: bool) -> None:
    ours, theirs = network(), network()
    adam = Adam(ours, fused=fused)
    reference = torch.optim.Adam(theirs.parameters(), lr=1.0, foreach=not fused, fused=fused)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, 20)
    for step in range(20):
        given = gradients(ours, step)
        adam.step(given, half_cosine(step, 20))
        for name, parameter in theirs.named_parameters():
            parameter.grad = given[name]
        reference.step()
        schedule.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_it_goes_on_from_its_state_as_if_it_had_not_stopped() -> None:
    whole, first = network(), network()
    adam, begun = Adam(whole), Adam(first)
    for step in range(4):
        adam.step(gradients(whole, step), 0.1)
        if step < 2:
            begun.step(gradients(first, step), 0.1)
    second = copy.deepcopy(first)
    resumed = Adam(second)
    resumed.load_state_dict(begun.state_dict())
    for step in (2, 3):
        resumed.step(gradients(second, step), 0.1)
    for mine, other in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_the_state_of_another_network_is_refused() -> None:
    with pytest.raises(DpdmError, match="not of this network"):
        Adam(network()).load_state_dict(Adam(nn.Linear(2, 2)).state_dict())


def test_training_does_not_wait_for_torchs_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from dpdm.networks import Adam\n"
        "from dpdm.privacy import per_unit_gradients\n"
        "module = torch.nn.Linear(2, 1)\n"
        "loss = lambda module, x: module(x).square().sum(1)\n"
        "_, found = per_unit_gradients(module, loss, (torch.ones(4, 2),))\n"
        "Adam(module).step({name: each.sum(0) for name, each in found.items()}, 0.1)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
