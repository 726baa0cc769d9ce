"""Per-unit gradients in which those of dense layers stay factors.

A dense layer's weight gradient of one unit is the sum over its images of (gradient at the output)
(input)^T. Its norm and the clipped sum follow from the factors (Goodfellow 2015, arXiv 1510.01799),
which are a hundred times smaller than the product: in the MLP and the CNN nearly all weights are in
dense layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from dpdm.privacy import OuterProducts, per_unit_gradients
from dpdm.privacy.gradients import PerUnit


def factored_gradients(
    network: nn.Module,
    loss: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    views: int,
) -> tuple[Tensor, Mapping[str, PerUnit]]:
    """As ``per_unit_gradients``, with ``OuterProducts`` for the weights of dense layers.

    For networks that use the weight of a dense layer in one call of that layer and nowhere else.
    """
    with _taps(network) as taps:
        losses, others = per_unit_gradients(network, loss, inputs, views, whole=True)
    gradients: dict[str, PerUnit] = dict(others)
    for name, (seen, gone) in taps.items():
        if len(seen) != 1 or len(gone) != 1:
            # The engine looks through more than one pass where it checks a new kind of call.
            return per_unit_gradients(network, loss, inputs, views, whole=True)
        left, right = (
            part.detach().reshape(len(losses), -1, part.shape[-1]) for part in (*gone, *seen)
        )
        gradients[name] = OuterProducts(left, right)
    return losses, gradients


@contextmanager
def _taps(network: nn.Module) -> Iterator[dict[str, tuple[list[Tensor], list[Tensor]]]]:
    """Within: dense layers' weights need no gradient, but what enters and comes back is kept.

    Weight's name -> inputs, and gradients of the outputs, of every pass.
    """
    taps: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    undo: list[Callable[[], Any]] = []
    for path, module in network.named_modules():
        if type(module) is not nn.Linear or not module.weight.requires_grad:
            continue
        kept = taps[f"{path}.weight"] = ([], [])

        def tap(_: nn.Module, given: tuple[Tensor], output: Tensor, kept: Any = kept) -> None:
            kept[0].append(given[0])
            output.register_hook(kept[1].append)  # type: ignore[no-untyped-call]

        module.weight.requires_grad_(False)
        undo.append(module.register_forward_hook(tap).remove)
        undo.append(partial(module.weight.requires_grad_, True))
    try:
        yield taps
    finally:
        for step in undo:
            step()
