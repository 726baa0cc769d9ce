"""Checkpoints: weights, moving average, Adam's state and the step number, in one atomic
safetensors file.

They lie on the private side: their step is released only when the run ends.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from dpdm.errors import DpdmError
from dpdm.networks import EMA, Adam, load_into, load_weights, save_weights

Phase = Literal["pretraining", "warm-up", "labeller", "DP-SGD"]
_PHASES: dict[Phase, int] = {"pretraining": 0, "warm-up": 0, "DP-SGD": 1}
_KEEP = 2


@dataclass
class TrainingState:
    """What a training step changes.

    Attributes:
        network: the module that is trained.
        optimiser: Adam over its parameters.
        ema: moving average of its parameters.
        phase: which loop is running.
        step: steps of that phase that are done.
    """

    network: nn.Module
    optimiser: Adam
    ema: EMA
    phase: Phase
    step: int

    @classmethod
    def begin(cls, network: nn.Module, phase: Phase, ema_decay: float) -> TrainingState:
        """Before the first step of a phase; only DP-SGD averages without the EMA's own warm-up."""
        return cls(
            network=network,
            optimiser=Adam(network),
            ema=EMA(network, ema_decay, warmup=phase != "DP-SGD"),
            phase=phase,
            step=0,
        )


def save_checkpoint(folder: Path, state: TrainingState, ledger_head: str) -> Path:
    """Writes a checkpoint atomically and deletes all but the last two.

    ``ledger_head`` is the hash of the ledger's last record: a resumed run requires that record.
    """
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in state.ema.state_dict().items()}
    tensors |= {f"adam.{name}": value for name, value in state.optimiser.state_dict().items()}
    about = {"phase": state.phase, "step": state.step, "ledger_head": ledger_head}
    path = folder / f"{_PHASES[state.phase]}-{state.phase}-{state.step:08d}.safetensors"
    save_weights(path, tensors, {"checkpoint": json.dumps(about)})
    for old in list_checkpoints(folder)[:-_KEEP]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in the order in which they were reached."""
    return sorted(folder.glob("[01]-*.safetensors"))


def phase_of(path: Path) -> Phase:
    """The phase in which a checkpoint was written."""
    return next(phase for phase in _PHASES if path.name[2:].startswith(phase))


def load_checkpoint(path: Path, state: TrainingState) -> str:
    """Puts a checkpoint into the network, optimiser and moving average of ``state``.

    Returns:
        The hash of the record with which the ledger ended when it was written, or "".

    Raises:
        DpdmError: the file is damaged or belongs to another network.
    """
    tensors, metadata = load_weights(path)
    try:
        about = json.loads(metadata["checkpoint"])
        phase, step, head = about["phase"], int(about["step"]), str(about["ledger_head"])
    except (KeyError, ValueError):
        raise DpdmError(f"{path}: not a checkpoint of this version of dpdm") from None

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }

    load_into(state.network, part("network."))
    state.ema.load_state_dict(part("ema."))
    state.optimiser.load_state_dict(part("adam."))
    state.phase, state.step = phase, step
    return head
