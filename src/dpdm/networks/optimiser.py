"""Adam, by torch's own kernels, without what its optimiser classes bring along; its learning rate.

``torch.optim.Adam`` imports torch's compiler when it is made, which takes two seconds of a start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from dpdm.errors import DpdmError

_BETAS, _EPS = (0.9, 0.999), 1e-8


def half_cosine(step: int, steps: int) -> float:
    """The share of the learning rate at step ``step`` (from 0) of ``steps``: from 1 down to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * step / max(steps, 1)))


class Adam:
    """Adam (Kingma and Ba 2015, Algorithm 1, its default decays) over a module's parameters.

    Args:
        module: whose parameters it moves.
        fused: one kernel for all in place of one an operation; other rounding.
    """

    def __init__(self, module: nn.Module, *, fused: bool = False) -> None:
        self._parameters = dict(module.named_parameters())
        self._fused = fused
        named = self._parameters.items()
        self._state = {
            "step": {n: torch.zeros((), device=p.device if fused else "cpu") for n, p in named},
            "exp_avg": {n: torch.zeros_like(p) for n, p in named},
            "exp_avg_sq": {n: torch.zeros_like(p) for n, p in named},
        }

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], learning_rate: float) -> None:
        """Moves each parameter against its gradient, of its shape."""
        adam(
            list(self._parameters.values()),
            [gradients[name].to(value.dtype) for name, value in self._parameters.items()],
            list(self._state["exp_avg"].values()),
            list(self._state["exp_avg_sq"].values()),
            [],
            list(self._state["step"].values()),
            foreach=not self._fused,
            fused=self._fused,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=learning_rate,
            weight_decay=0.0,
            eps=_EPS,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Steps done and both moments of each parameter: ``step.NAME``, ``exp_avg.NAME``,
        ``exp_avg_sq.NAME``."""
        return {f"{kind}.{n}": t for kind, held in self._state.items() for n, t in held.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what ``state_dict`` gave. DpdmError where it is another network's."""
        own = self.state_dict()
        if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in own.items()}:
            raise DpdmError("Adam's state is not of this network; it was saved with other settings")
        for name, held in own.items():
            held.copy_(state[name])
