"""Running a module on trial inputs without leaving a trace in random state, buffers, parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dpdm.errors import RequestError

SEED = 20221018
"""Fixes the random layers of two runs that are compared; any number would do."""


def mean_losses(losses: object, rows: int, views: int) -> Tensor:
    """The (U,) mean losses, at least float32; RequestError where the losses are not (U*V,)."""
    if not isinstance(losses, Tensor) or losses.shape != (rows,):
        got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise RequestError(
            f"the loss returned {got} where one loss for each row, shape ({rows},), is needed: "
            "take the mean over everything but the first dimension"
        )
    if not losses.is_floating_point():
        raise RequestError(f"the loss returned {losses.dtype}: losses are floating-point numbers")
    if losses.dtype.itemsize < 4:
        losses = losses.float()
    return losses.view(-1, views).mean(1)


def rows_of(inputs: Sequence[Tensor | None]) -> int:
    """U*V: the first dimension of the first tensor."""
    return next(len(x) for x in inputs if x is not None)


def in_parts(
    inputs: Sequence[Tensor | None], views: int, part: int
) -> Iterator[tuple[slice, tuple[Tensor | None, ...]]]:
    """The inputs of ``part`` units after the other: which units these are, and their rows."""
    units = rows_of(inputs) // views
    for start in range(0, units, part):
        some = slice(start, min(start + part, units))
        rows = slice(some.start * views, some.stop * views)
        yield some, tuple(None if x is None else x[rows] for x in inputs)


def unit_rows(unit: int, views: int) -> slice:
    """The rows of a unit."""
    return slice(unit * views, (unit + 1) * views)


def plain_losses(
    module: nn.Module,
    loss: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    views: int,
) -> Tensor:
    """The (U,) mean losses of the module as it is, without their graph."""
    with torch.enable_grad():  # the loss may take gradients of its own
        return mean_losses(loss(module, *inputs), rows_of(inputs), views).detach()


@contextmanager
def undisturbed(
    module: nn.Module, inputs: Sequence[Tensor | None], seed: int | None = None
) -> Iterator[None]:
    """Within: random numbers start from ``seed``. After: random state and buffers as before."""
    tensors = [*module.parameters(), *module.buffers(), *(x for x in inputs if x is not None)]
    devices = sorted({t.device.index for t in tensors if t.device.type == "cuda"})
    held = [
        (owner, name, buffer, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            for device in devices:
                torch.cuda.default_generators[device].manual_seed(seed)
        try:
            yield
        finally:
            with torch.no_grad():
                for owner, name, buffer, value in held:
                    owner._buffers[name] = buffer
                    if not torch.equal(buffer, value):
                        buffer.copy_(value)


@contextmanager
def jittered(module: nn.Module) -> Iterator[None]:
    """Within: every parameter is a little off, so that layers that start at zero hide nothing."""
    generator = torch.Generator().manual_seed(SEED)
    held = [(p, p.data) for p in module.parameters() if p.is_floating_point()]
    try:
        for parameter, value in held:
            noise = torch.randn(value.shape, generator=generator).to(value)
            scale = value.float().square().mean().sqrt() if value.numel() else 0.0
            parameter.data = value + 0.1 * (scale + 0.1) * noise
        yield
    finally:
        for parameter, value in held:
            parameter.data = value


def with_others_changed(
    inputs: Sequence[Tensor | None], views: int, keep: int
) -> tuple[Tensor | None, ...]:
    """The rows of unit ``keep`` as they are, every other unit's changed to plausible values."""
    generator = torch.Generator().manual_seed(SEED)
    return tuple(None if x is None else _changed(x, views, keep, generator) for x in inputs)


def _changed(x: Tensor, views: int, keep: int, generator: torch.Generator) -> Tensor:
    changed = x.detach().roll(views, 0)  # another unit's values
    if x.is_floating_point():
        noise = torch.randn(x.shape, generator=generator).to(x)
        if bool((x > 0).all()):  # noise levels, scales
            changed = changed * torch.exp(0.5 * noise)
        else:
            scale = x.detach().float().std() if x.numel() > 1 else x.new_zeros(())
            changed = changed + (0.5 * scale + 0.1).to(x) * noise
    rows = unit_rows(keep, views)
    changed[rows] = x.detach()[rows]
    return changed


def with_two_units(
    inputs: Sequence[Tensor | None], views: int
) -> tuple[tuple[Tensor | None, ...], int]:
    """The inputs and their number of units; a single unit gets a changed copy beside it."""
    units = rows_of(inputs) // views
    if units > 1:
        return tuple(inputs), units
    doubled = tuple(None if x is None else torch.cat([x, x]) for x in inputs)
    return with_others_changed(doubled, views, keep=0), 2


def largest_difference(a: Tensor, b: Tensor) -> float:
    """max |a - b|; NaN equals NaN alone, unequal shapes and integers differ infinitely."""
    if a.shape != b.shape:
        return torch.inf
    if not a.numel() or torch.equal(a, b):
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        return torch.inf
    same = (a == b) | (a.isnan() & b.isnan())
    difference = (a - b).abs().masked_fill(same, 0.0)
    return float(difference.nan_to_num(nan=torch.inf).max())
