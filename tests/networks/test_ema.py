"""The moving average of weights against the recurrence that defines it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dpdm.errors import DpdmError, RequestError
from dpdm.networks import EMA


class Counting(nn.Module):
    """Two layers and a persistent buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Linear(4, 2))
        self.register_buffer("seen", torch.tensor(0))

    def drift(self, generator: torch.Generator) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
            self.seen.add_(1)


def module() -> Counting:
    return Counting().double()


def naive(module: Counting, decays: list[float], generator: torch.Generator) -> dict[str, Tensor]:
    """average <- d average + (1 - d) weights, in a loop."""
    average = {name: p.detach().clone() for name, p in module.named_parameters()}
    for decay in decays:
        module.drift(generator)
        for name, parameter in module.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * parameter.detach()
    return average


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_average_follows_its_recurrence(decay: float, warmup: bool) -> None:
    one = module()
    two = module()
    two.load_state_dict(one.state_dict())
    ema = EMA(one, decay, warmup=warmup)
    decays = [min(decay, (1 + n) / (10 + n)) if warmup else decay for n in range(30)]
    generator = torch.Generator().manual_seed(0)
    for _ in decays:
        one.drift(generator)
        ema.update(one)
    expected = naive(two, decays, torch.Generator().manual_seed(0))
    for name, tensor in expected.items():
        torch.testing.assert_close(ema.tensors[name], tensor)


def test_default_decay_is_the_papers() -> None:
    assert EMA(module()).decay == 0.999


def test_buffers_are_copied() -> None:
    source = module()
    ema = EMA(source)
    for _ in range(3):
        source.drift(torch.Generator().manual_seed(0))
        ema.update(source)
    assert ema.tensors["seen"].item() == 3


def test_update_leaves_the_module_alone() -> None:
    source = module()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    EMA(source).update(source)
    assert all(torch.equal(before[name], t) for name, t in source.state_dict().items())


def test_average_does_not_share_memory_with_the_module() -> None:
    source = module()
    ema = EMA(source)
    before = ema.tensors["body.0.weight"].clone()
    source.drift(torch.Generator().manual_seed(0))
    assert torch.equal(ema.tensors["body.0.weight"], before)


def test_copy_to_gives_another_module_the_average() -> None:
    source, target = module(), module()
    ema = EMA(source, 0.5)
    source.drift(torch.Generator().manual_seed(0))
    ema.update(source)
    ema.copy_to(target)
    assert all(torch.equal(ema.tensors[name], t) for name, t in target.state_dict().items())


def test_copy_to_refuses_another_network() -> None:
    with pytest.raises(DpdmError, match="moving average"):
        EMA(module()).copy_to(nn.Linear(2, 2))


@pytest.mark.parametrize("warmup", [False, True])
def test_saved_state_goes_on_exactly(warmup: bool) -> None:
    source = module()
    first = EMA(source, 0.9, warmup=warmup)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        source.drift(generator)
        first.update(source)
    second = EMA(module(), 0.9, warmup=warmup)
    second.load_state_dict(first.state_dict())
    source.drift(generator)
    first.update(source)
    second.update(source)
    assert second.updates == first.updates == 6
    assert all(torch.equal(first.tensors[name], t) for name, t in second.tensors.items())


def test_saved_state_is_a_copy() -> None:
    source = module()
    ema = EMA(source, 0.5)
    state = ema.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    source.drift(torch.Generator().manual_seed(0))
    ema.update(source)
    assert all(torch.equal(before[name], tensor) for name, tensor in state.items())


def test_state_of_another_network_is_refused() -> None:
    with pytest.raises(DpdmError, match="another network"):
        EMA(module()).load_state_dict(EMA(nn.Linear(2, 2)).state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(RequestError, match=r"training\.ema_decay"):
        EMA(module(), decay)
