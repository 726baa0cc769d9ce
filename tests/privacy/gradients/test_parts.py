"""A large pass in parts of units: the same gradients, and all rows at once for what needs that."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dpdm.privacy.gradients import UnsupportedModuleError, parts, per_unit_gradients
from dpdm.privacy.gradients.engine import settled

VIEWS = 2


@pytest.fixture(autouse=True)
def small_blocks_are_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a unit saves, 4 KiB in float32 at most, makes parts of three units."""
    monkeypatch.setattr(parts, "hands_back_large_blocks", lambda: True)
    monkeypatch.setattr(parts, "_SMALL_INPUTS", 0)
    monkeypatch.setattr(parts, "LARGEST_KEPT", 3 * 2 * 8 * 8 * 8 * 4)


def net(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.SiLU(),
        *more,
        nn.Conv2d(8, 3, 3),
        nn.Flatten(),
        nn.Linear(108, 4),
    )


def squared(module: nn.Module, x: Tensor) -> Tensor:
    return module(x).square().sum(1)


class Rows:
    """How many rows each pass has."""

    def __init__(self, module: nn.Module) -> None:
        self.seen: list[int] = []
        module.register_forward_pre_hook(lambda _, given: self.seen.append(len(given[0])))

    def of_a_call(self, *arguments: object, **options: bool) -> list[int]:
        self.seen.clear()
        per_unit_gradients(*arguments, VIEWS, **options)  # type: ignore[arg-type]
        return list(self.seen)


def test_parts_give_the_gradients_of_the_loop_and_the_names_in_order(oracle):
    module, x = net().double(), torch.randn(7 * VIEWS, 2, 8, 8).double()
    for _ in range(2):  # the first call, which looks, and one after it
        losses, gradients = per_unit_gradients(module, squared, (x,), VIEWS)
        expected_losses, expected = oracle.loop(module, squared, (x,), VIEWS)
        torch.testing.assert_close(losses, expected_losses)
        oracle.assert_equal(gradients, expected, 1e-10)
    assert Rows(module).of_a_call(module, squared, (x,)) == [4, 4, 4, 2]


def test_all_rows_at_once_where_asked_or_where_nothing_is_handed_back(monkeypatch):
    module, x = net(), torch.randn(7 * VIEWS, 2, 8, 8)
    rows = Rows(module)
    assert rows.of_a_call(module, squared, (x,), whole=True)[-1] == 14
    per_unit_gradients(module, squared, (x,), VIEWS)
    assert rows.of_a_call(module, squared, (x,)) == [6, 6, 2]
    assert rows.of_a_call(module, squared, (x,), whole=True) == [14]
    small = torch.randn(2 * VIEWS, 2, 8, 8)
    assert rows.of_a_call(module, squared, (small,))[-1] == 4
    monkeypatch.setattr(parts, "hands_back_large_blocks", lambda: False)
    other = net()
    assert Rows(other).of_a_call(other, squared, (x,)) == [14]


class Noted(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


@pytest.mark.parametrize(
    "module", [net(nn.Dropout(0.5), nn.Dropout(0.5)), net(Noted())], ids=["random", "buffer"]
)
def test_a_module_that_draws_or_leaves_something_behind_sees_all_rows(module):
    x = torch.randn(6 * VIEWS, 2, 8, 8)
    rows = Rows(module)
    rows.of_a_call(module, squared, (x,))
    assert rows.of_a_call(module, squared, (x,)) == [12]


def test_a_loss_that_reads_rows_from_elsewhere_sees_all_of_them(oracle):
    module, x = net().double(), torch.randn(6 * VIEWS, 2, 8, 8).double()
    weights = torch.rand(len(x)).double()

    def weighted(module: nn.Module, x: Tensor) -> Tensor:
        return squared(module, x) * weights[: len(x)]

    _, found = per_unit_gradients(module, weighted, (x,), VIEWS)
    _, expected = per_unit_gradients(module, weighted, (x,), VIEWS, whole=True)
    oracle.assert_equal(found, expected, 0.0)

    def only_all(module: nn.Module, x: Tensor) -> Tensor:
        return squared(module, x) * weights

    rows = Rows(module)
    rows.of_a_call(module, only_all, (x,))
    assert rows.of_a_call(module, only_all, (x,)) == [12]


HELD = torch.rand(12)


class Weighted:
    def __init__(self, held: object) -> None:
        self.held = held

    def __call__(self, module: nn.Module, x: Tensor) -> Tensor:
        return squared(module, x) * torch.as_tensor(self.held)[: len(x)]


def by_default(module: nn.Module, x: Tensor, held: Tensor = HELD) -> Tensor:
    return squared(module, x) * held[: len(x)]


def by_name(module: nn.Module, x: Tensor) -> Tensor:
    return (lambda: squared(module, x) * HELD[: len(x)])()


@pytest.mark.parametrize(
    "loss",
    [Weighted(HELD), Weighted(HELD.tolist()), Weighted(HELD).__call__, by_default, by_name],
    ids=["object", "list", "method", "default", "global"],
)
def test_rows_that_a_loss_holds_are_found_where_values_do_not_show_them(loss):
    """At the first call all of them are equal, so that losses of parts are those of all rows."""
    module, x, given = net(), torch.randn(6 * VIEWS, 2, 8, 8), HELD.clone()
    if isinstance(loss, Weighted) and isinstance(loss.held, list):
        loss.held = [0.5] * 12
    HELD.fill_(0.5)
    per_unit_gradients(module, loss, (x,), VIEWS)
    HELD.copy_(given)
    assert Rows(module).of_a_call(module, loss, (x,)) == [12]


def test_a_network_that_ends_in_zeros_hides_nothing():
    module, x = net(nn.Dropout(0.5), nn.Dropout(0.5)), torch.randn(6 * VIEWS, 2, 8, 8)
    nn.init.zeros_(module[-1].weight)
    nn.init.zeros_(module[-1].bias)
    rows = Rows(module)
    rows.of_a_call(module, squared, (x,))
    assert rows.of_a_call(module, squared, (x,)) == [12]
    assert not module[-1].weight.any()


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_a_unit_of_large_or_infinite_loss_hides_nothing(size):
    """Rows of a place that no look at the loss finds: of a module in a closure."""
    module, x, held = net(), torch.randn(6 * VIEWS, 2, 8, 8), nn.Module()
    held.rows = torch.rand(12)

    def weighted(module: nn.Module, x: Tensor) -> Tensor:
        return squared(module, x) * held.rows[: len(x)]

    x[0] *= size
    rows = Rows(module)
    rows.of_a_call(module, weighted, (x,))
    assert rows.of_a_call(module, weighted, (x,)) == [12]


def test_what_a_loss_holds_that_is_no_rows_leaves_the_parts_as_they_are():
    module, x = net(), torch.randn(6 * VIEWS, 2, 8, 8)
    scale, names = torch.tensor([0.5]), {"a": 1}

    def scaled(module: nn.Module, x: Tensor) -> Tensor:
        return squared(module, x) * scale * len(names)

    rows = Rows(module)
    rows.of_a_call(module, scaled, (x,))
    assert rows.of_a_call(module, scaled, (x,)) == [6, 6]


def test_a_last_part_of_one_unit_says_nothing_of_units():
    module, x = net(), torch.randn(7 * VIEWS, 2, 8, 8)
    nn.init.zeros_(module[-1].weight)  # so that earlier layers show nothing yet
    assert Rows(module).of_a_call(module, squared, (x,))[-3:] == [6, 6, 2]
    assert not settled(module, squared, (x,), VIEWS)


def test_a_loss_that_mixes_units_is_refused_as_ever():
    module, x = net(), torch.randn(6 * VIEWS, 2, 8, 8)

    def mixing(module: nn.Module, x: Tensor) -> Tensor:
        output = module(x)
        return (output - output.mean(0)).square().sum(1)

    with pytest.raises(UnsupportedModuleError):
        per_unit_gradients(module, mixing, (x,), VIEWS)


@pytest.mark.parametrize("within", ["call", "loss"])
def test_parts_under_autocast_leave_no_gradient_out(oracle, within):
    module, x = net(), torch.randn(12 * VIEWS, 2, 8, 8)

    def cast(module: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return squared(module, x).float()

    loss = cast if within == "loss" else squared
    with torch.autocast("cpu", torch.bfloat16, enabled=within == "call"):
        _, found = per_unit_gradients(module, loss, (x,), VIEWS)
        assert Rows(module).of_a_call(module, loss, (x,)) == [12, 12]
        # What the look cast must not stand in for weights that need a gradient.
        ordinary = torch.autograd.grad(loss(module, x).mean(), list(module.parameters()))
    means = {name: gradient.mean(0) for name, gradient in found.items()}
    oracle.assert_equal(means, dict(zip(found, ordinary, strict=True)), 3e-2)
