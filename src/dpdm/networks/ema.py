"""The exponential moving average of a network's weights, which is what is released and sampled.

average <- decay * average + (1 - decay) * weights after every step; the paper's decay is 0.999
(Dockhorn et al. 2023, appendix). Averaging noised weights is post-processing: it costs no privacy.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dpdm.errors import DpdmError, RequestError
from dpdm.networks.weights import load_into

_UPDATES = "updates"
_AVERAGE = "average."


class EMA:
    """The average of a module's parameters; persistent buffers are copied, not averaged.

    Args:
        module: where the average starts.
        decay: share of the old average kept at an update, in [0, 1); 0 is no averaging.
        warmup: use min(decay, (1 + n) / (10 + n)) at update n (n from 0), so that the first weights
            are forgotten fast in short runs. Off in the paper.

    Raises:
        RequestError: a decay outside [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float = 0.999, *, warmup: bool = False) -> None:
        if not 0.0 <= decay < 1.0:
            raise RequestError(f"training.ema_decay={decay}: must be at least 0 and below 1")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.tensors: dict[str, Tensor] = {
            name: tensor.detach().clone() for name, tensor in module.state_dict().items()
        }
        """The averaged weights by name, as in the module's state dict: what is released."""

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's present weights; the module is not changed."""
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        averages, present = [], []
        for name, tensor in module.state_dict().items():
            if name in parameters:
                averages.append(self.tensors[name])
                present.append(tensor)
            else:
                self.tensors[name].copy_(tensor)
        torch._foreach_lerp_(averages, present, 1.0 - decay)
        self.updates += 1

    def copy_to(self, module: nn.Module) -> None:
        """Give ``module`` the averaged weights. Raises DpdmError where they do not fit it."""
        load_into(module, self.tensors, source="moving average")

    def state_dict(self) -> dict[str, Tensor]:
        """Averages and number of updates, as tensors only: fit for safetensors. Copies."""
        state = {_AVERAGE + name: tensor.clone() for name, tensor in self.tensors.items()}
        return {_UPDATES: torch.tensor(self.updates), **state}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from ``state_dict()``. Raises DpdmError where names or shapes differ."""
        theirs = {name.removeprefix(_AVERAGE): t for name, t in state.items() if name != _UPDATES}
        ours = {name: tuple(t.shape) for name, t in self.tensors.items()}
        if _UPDATES not in state or ours != {n: tuple(t.shape) for n, t in theirs.items()}:
            raise DpdmError(
                "moving average: the saved state is of another network; "
                "resume with the settings that it was saved with"
            )
        for name, tensor in self.tensors.items():
            tensor.copy_(theirs[name])
        self.updates = int(state[_UPDATES])
