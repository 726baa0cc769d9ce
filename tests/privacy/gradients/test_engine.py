"""The contract of per_unit_gradients: what it returns, refuses, and leaves as it was."""

from __future__ import annotations

import functools
import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode

from dpdm.errors import RequestError
from dpdm.privacy.gradients import per_unit_gradients


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Conv2d(8, 2, 3),
        nn.Flatten(),
        nn.Linear(32, 5),
        nn.LayerNorm(5),
    )


def images(rows: int) -> torch.Tensor:
    return torch.randn(rows, 2, 6, 6)


def loss(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return module(x).square().sum(1)


def test_losses_are_the_units_means_without_a_graph(oracle):
    module, x = small_net(), images(6)
    losses, gradients = per_unit_gradients(module, loss, (x,), views=3)
    torch.testing.assert_close(losses, loss(module, x).detach().view(2, 3).mean(1))
    assert not losses.requires_grad
    assert not any(g.requires_grad for g in gradients.values())


def test_the_mean_over_units_is_the_ordinary_gradient_of_the_batch():
    module, x = small_net().double(), images(12).double()
    _, gradients = per_unit_gradients(module, loss, (x,), views=4)
    loss(module, x).mean().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(gradients[name].mean(0), parameter.grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_have_the_parameters_precision(oracle, dtype):
    module, x = small_net().to(dtype), images(6).to(dtype)
    _, gradients = per_unit_gradients(module, loss, (x,), views=2)
    assert {g.dtype for g in gradients.values()} == {dtype}
    _, expected = oracle.loop(module, loss, (x,), 2)
    oracle.assert_equal(gradients, expected, 1e-10 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("within", ["loss", "call"])
def test_autocast_keeps_float32_gradients_close_to_autocasts_own(oracle, within):
    module, x = small_net(), images(6)

    def cast(module, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss(module, x).float()

    if within == "loss":
        losses, gradients = per_unit_gradients(module, cast, (x,), views=2)
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses, gradients = per_unit_gradients(module, loss, (x,), views=2)
    assert {g.dtype for g in gradients.values()} == {torch.float32}
    assert losses.dtype == torch.float32
    _, expected = oracle.loop(module, cast, (x,), 2)
    # bfloat16 has 8 bits: one rounding is 2^-9; a few of them meet in each gradient.
    oracle.assert_equal(gradients, expected, 2e-2)


def test_channels_last(oracle):
    module = small_net().double().to(memory_format=torch.channels_last)
    x = images(6).double().contiguous(memory_format=torch.channels_last)
    oracle.check(module, x, views=2)


@pytest.mark.parametrize("compiled", ["module", "in place", "submodule", "loss"])
@pytest.mark.filterwarnings("error:per_unit_gradients passes units one by one")
def test_of_compiled_code_the_eager_form_is_taken(compiled):
    module, x, chosen = small_net(), images(6), loss
    _, expected = per_unit_gradients(module, loss, (x,), views=2)
    called: nn.Module = module
    if compiled == "module":
        called = torch.compile(module, backend="aot_eager")
    elif compiled == "in place":
        module.compile(backend="aot_eager")
    elif compiled == "submodule":
        module[0] = torch.compile(module[0], backend="aot_eager")
    else:
        chosen = torch.compile(loss, backend="aot_eager")
    before = called(x).detach()
    _, gradients = per_unit_gradients(called, chosen, (x,), views=2)
    for found, own in zip(gradients.values(), expected.values(), strict=True):
        assert torch.equal(found, own)
    assert torch.equal(called(x).detach(), before)


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("units", [6, 48, 61])
def test_a_units_gradient_follows_from_its_own_rows_to_the_last_bit(low, units):
    """Its place among the others and what they are change not even the rounding."""
    module, views = nn.Sequential(nn.Conv2d(2, 8, 3), small_net()[1:3], nn.Conv2d(8, 8, 3)), 2
    x, place = torch.randn(units, views, 2, 12, 12), torch.randperm(units)
    others = torch.cat([x[:1], torch.randn_like(x[1:])])
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        whole, moved, alone = (
            per_unit_gradients(module, lambda m, x: loss(m, x).sum((1, 2)).float(), (rows,), views)[
                1
            ]
            for rows in (x.flatten(0, 1), x[place].flatten(0, 1), others.flatten(0, 1))
        )
    for name, gradient in whole.items():
        assert torch.equal(gradient[place], moved[name])
        assert torch.equal(gradient[0], alone[name][0])


def test_repeated_calls_give_the_same_bits():
    module, x = small_net(), images(8)
    first = per_unit_gradients(module, loss, (x,), views=2)
    for _ in range(3):
        losses, gradients = per_unit_gradients(module, loss, (x,), views=2)
        assert torch.equal(losses, first[0])
        assert all(torch.equal(g, first[1][name]) for name, g in gradients.items())


def test_the_loss_is_called_once_with_the_module_as_it_is():
    module, x, calls = small_net(), images(6), []

    def counted(called, *inputs):
        calls.append((called, [len(i) for i in inputs], called.training))
        return loss(called, *inputs)

    per_unit_gradients(module, counted, (x,), views=2)
    assert calls == [(module, [6], True)]


@pytest.mark.parametrize("training", [True, False])
def test_dropout_draws_for_every_row_as_the_module_does(training):
    module = nn.Sequential(nn.Linear(3, 40), nn.Dropout(0.5), nn.Linear(40, 1)).train(training)
    x = torch.randn(6, 3)
    torch.manual_seed(3)
    _, gradients = per_unit_gradients(module, loss, (x,), views=2)
    torch.manual_seed(3)
    expected = torch.autograd.grad(loss(module, x).mean(), list(module.parameters()))
    for found, reference in zip(gradients.values(), expected, strict=True):
        torch.testing.assert_close(found.mean(0), reference)


def test_the_module_is_left_as_it_was():
    module, x = small_net(), images(6)
    module[0].weight.grad = kept = torch.ones_like(module[0].weight)
    before = {name: p.clone() for name, p in module.named_parameters()}
    attributes = {name: set(vars(m)) for name, m in module.named_modules()}
    per_unit_gradients(module, loss, (x,), views=2)
    assert module[0].weight.grad is kept
    assert torch.equal(kept, torch.ones_like(kept))
    assert module[3].weight.grad is None
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
    for name, submodule in module.named_modules():
        assert set(vars(submodule)) == attributes[name]
        assert not submodule._forward_hooks
        assert not submodule._backward_hooks
    assert not x.requires_grad


def test_nothing_is_left_behind_by_an_exception():
    module, x = small_net(), images(6)

    def failing(module, x):
        module(x)
        raise KeyError("in the loss")

    with pytest.raises(KeyError):
        per_unit_gradients(module, failing, (x,), views=2)
    assert _get_current_function_mode_stack() == []
    loss(module, x).mean().backward()
    assert module[0].weight.grad is not None


def test_a_module_is_not_kept_alive():
    module = small_net()
    per_unit_gradients(module, loss, (images(4),), views=2)
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None


def test_gradients_are_found_within_no_grad(oracle):
    module, x = small_net().double(), images(6).double()
    with torch.no_grad():
        _, gradients = per_unit_gradients(module, loss, (x,), views=2)
    _, expected = oracle.loop(module, loss, (x,), 2)
    oracle.assert_equal(gradients, expected, 1e-10)


def test_nothing_of_the_size_of_views_times_parameters_is_made():
    """Largest tensor of any operation, for a layer whose weights outnumber its activations."""
    units, views = 2, 16
    module = nn.Sequential(nn.Conv2d(16, 64, 1), nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64))
    x = torch.randn(units * views, 16, 1, 1)
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes() // 4)
            return result

    with Largest():
        per_unit_gradients(module, loss, (x,), views=views)
    assert largest <= units * 64 * 64


def test_a_parameter_that_is_a_number():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.scale * x

    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    _, gradients = per_unit_gradients(Scaled(), loss, (x,), views=2)
    # d/ds (s x)^2 = 2 s x^2, the mean over two views.
    assert torch.equal(gradients["scale"], torch.tensor([10.0, 50.0]))


def test_inputs_that_are_absent_are_passed_on():
    def optional(module, x, labels):
        assert labels is None
        return loss(module, x)

    losses, _ = per_unit_gradients(small_net(), optional, (images(4), None), views=2)
    assert losses.shape == (2,)


def test_a_module_without_trainable_parameters_gives_losses_only():
    module, x = small_net().requires_grad_(False), images(4)
    losses, gradients = per_unit_gradients(module, loss, (x,), views=2)
    assert losses.shape == (2,)
    assert gradients == {}


def test_a_loss_made_anew_for_every_step():
    module, x = small_net(), images(4)
    for factor in (1.0, 2.0):
        scaled = functools.partial(lambda module, x, by: by * loss(module, x), by=factor)
        losses, _ = per_unit_gradients(module, scaled, (x,), views=2)
        torch.testing.assert_close(losses, factor * loss(module, x).detach().view(2, 2).mean(1))


@pytest.mark.parametrize("views", [0, -1, 4, 1.5, True, "2"])
def test_views_that_do_not_divide_the_rows_are_refused(views):
    with pytest.raises(RequestError, match=r"views=.*6 rows"):
        per_unit_gradients(small_net(), loss, (images(6),), views=views)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda m, x: m(x).mean(),
        lambda m, x: m(x),
        lambda m, x: m(x)[:2].sum(1),
        lambda m, x: 3.0,
    ],
)
def test_a_loss_of_another_shape_is_refused(wrong):
    with pytest.raises(RequestError, match=r"one loss for each row, shape \(6,\)"):
        per_unit_gradients(small_net(), wrong, (images(6),), views=2)


@pytest.mark.parametrize(
    "inputs",
    [
        (),
        (torch.zeros(0, 2, 6, 6),),
        (torch.zeros(6, 2), torch.zeros(4)),
        (torch.tensor(1.0),),
        torch.zeros(6, 2, 6, 6),
    ],
)
def test_inputs_without_a_common_first_dimension_are_refused(inputs):
    with pytest.raises(RequestError, match="inputs must"):
        per_unit_gradients(small_net(), loss, inputs, views=1)


@pytest.mark.parametrize(
    ("module", "chosen", "inputs", "says"),
    [
        (lambda x: x, loss, (torch.ones(4, 3),), "must be a torch.nn.Module, not function"),
        (nn.Linear(3, 1), loss, (np.ones((4, 3)),), "tensors or None, not ndarray"),
        (nn.Linear(3, 1), lambda m, x: m(x)[:, 0].long(), (torch.ones(4, 3),), "torch.int64"),
    ],
)
def test_what_is_no_module_input_or_loss_is_refused(module, chosen, inputs, says):
    with pytest.raises(RequestError, match=says):
        per_unit_gradients(module, chosen, inputs)
