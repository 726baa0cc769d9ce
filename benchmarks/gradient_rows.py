"""The ways to a gradient that ``per_unit_gradients.py`` compares, each as a function to be timed.

Every row starts from the same network and inputs. ``ROWS`` maps its name to a function that
prepares it and returns one step: name -> tensor, the gradient of the mean loss (``plain``), the
per-unit gradients (U, *shape), or their clipped sum (the names that say ``clip`` or ``ghost``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from common import BF16, Problem
from torch import Tensor, nn

from dpdm import load_config
from dpdm.diffusion.denoiser import PriorBase, SkipBase
from dpdm.networks.unet import UNet
from dpdm.privacy.gradients import clip_and_sum, per_unit_gradients

MAX_NORM = 1.0
"""The clipping norm of the rows that clip."""

Step = Callable[[], dict[str, Tensor]]


class Task(NamedTuple):
    """A network, its inputs of U*V rows with the views of a unit adjacent, and U and V."""

    network: nn.Module
    inputs: tuple[Tensor, ...]
    units: int
    views: int


def make_task(problem: Problem, units: int, views: int, device: str) -> Task:
    """The network of a preset with random weights, and random inputs."""
    torch.manual_seed(0)
    config = load_config(problem.preset)
    height, width, channels = problem.shape
    base = PriorBase if config.prior.enabled and config.diffusion.base != "skip" else SkipBase
    network = UNet(
        image_size=(height, width),
        in_channels=channels * base.input_multiple,
        out_channels=channels,
        classes=problem.classes,
        **config.network.model_dump(exclude={"label_dropout", "init"}),
    )
    with torch.no_grad():
        for parameter in network.parameters():  # no layer at zero: every kernel has work to do
            parameter.add_(0.02 * torch.randn_like(parameter))
    n = units * views
    inputs = (
        torch.randn(n, channels * base.input_multiple, height, width),
        torch.randn(n),
        torch.randn(n, channels, height, width),
        torch.randint(problem.classes, (n,)),
    )
    return Task(network.to(device), tuple(x.to(device) for x in inputs), units, views)


def losses(
    module: Callable[..., Tensor], x: Tensor, c_noise: Tensor, target: Tensor, labels: Tensor
) -> Tensor:
    """The mean squared error of each row, (N,)."""
    error: Tensor = module(x, c_noise, labels) - target
    return error.square().flatten(1).mean(1)


def _autocast(task: Task, enabled: bool) -> torch.autocast:
    return torch.autocast(task.inputs[0].device.type, torch.bfloat16, enabled=enabled)


def _plain(task: Task, bf16: bool = False) -> Step:
    parameters = dict(task.network.named_parameters())

    def step() -> dict[str, Tensor]:
        with _autocast(task, bf16):
            loss = losses(task.network, *task.inputs).mean()
        found = torch.autograd.grad(loss, list(parameters.values()))
        return dict(zip(parameters, found, strict=True))

    return step


def _dpdm(task: Task, bf16: bool = False, clip: bool = False) -> Step:
    def step() -> dict[str, Tensor]:
        with _autocast(task, bf16):
            _, found = per_unit_gradients(task.network, losses, task.inputs, views=task.views)
        return clip_and_sum(found, MAX_NORM).sums if clip else found

    return step


def _opacus(task: Task, bf16: bool = False) -> Step:
    """Hooks give the gradient of every view; their mean is the unit's.

    Under autocast its convolutions leave theirs in bfloat16.
    """
    from opacus import GradSampleModule

    hooked = GradSampleModule(task.network, loss_reduction="sum")
    parameters = dict(task.network.named_parameters())

    def step() -> dict[str, Tensor]:
        with _autocast(task, bf16):
            loss = losses(hooked, *task.inputs).sum()
        loss.backward()
        found = {}
        for name, parameter in parameters.items():
            found[name] = parameter.grad_sample.unflatten(0, (task.units, task.views)).mean(1)
            parameter.grad = parameter.grad_sample = None
        hooked.zero_grad()
        return found

    return step


def _ghost(task: Task) -> Step:
    """Opacus's two backward passes: norms of every view's gradient, then the weighted sum.

    Norms of views do not give the norm of their mean, so each view is clipped as a unit of its own:
    not the sum that the other rows lead to.
    """
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    hooked = GradSampleModuleFastGradientClipping(
        task.network, loss_reduction="sum", max_grad_norm=MAX_NORM, use_ghost_clipping=True
    )
    parameters = dict(task.network.named_parameters())

    def step() -> dict[str, Tensor]:
        each = losses(hooked, *task.inputs)
        each.sum().backward(retain_graph=True)
        hooked.zero_grad()
        factors = hooked.get_clipping_coef()
        hooked.disable_hooks()
        (factors * each).sum().backward()
        hooked.enable_hooks()
        found = {name: parameter.grad for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.grad = None
        return found

    return step


def _vmap(task: Task, bf16: bool = False) -> Step:
    parameters = {name: value.detach() for name, value in task.network.named_parameters()}

    def unit_loss(weights: dict[str, Tensor], *own: Tensor) -> Tensor:
        def module(*arguments: Tensor) -> Tensor:
            return torch.func.functional_call(task.network, weights, arguments)

        return losses(module, *own).mean()

    every = torch.func.vmap(
        torch.func.grad(unit_loss),
        in_dims=(None, *(0 for _ in task.inputs)),
        randomness="different",
    )
    inputs = [x.unflatten(0, (task.units, task.views)) for x in task.inputs]

    def step() -> dict[str, Tensor]:
        with _autocast(task, bf16):
            return every(parameters, *inputs)

    return step


def _loop(task: Task) -> Step:
    parameters = dict(task.network.named_parameters())

    def step() -> dict[str, Tensor]:
        found = {name: p.new_empty((task.units, *p.shape)) for name, p in parameters.items()}
        for unit in range(task.units):
            rows = slice(unit * task.views, (unit + 1) * task.views)
            loss = losses(task.network, *(x[rows] for x in task.inputs)).mean()
            own = torch.autograd.grad(loss, list(parameters.values()))
            for gradients, gradient in zip(found.values(), own, strict=True):
                gradients[unit] = gradient
        return found

    return step


ROWS: dict[str, Callable[[Task], Step]] = {
    "plain": _plain,
    "dpdm": _dpdm,
    "dpdm+clip": lambda task: _dpdm(task, clip=True),
    f"plain{BF16}": lambda task: _plain(task, bf16=True),
    f"dpdm{BF16}": lambda task: _dpdm(task, bf16=True),
    "Opacus hooks": _opacus,
    f"Opacus hooks{BF16}": lambda task: _opacus(task, bf16=True),
    "Opacus ghost": _ghost,
    "vmap": _vmap,
    f"vmap{BF16}": lambda task: _vmap(task, bf16=True),
    "loop": _loop,
}
