"""The files of a release: what they are called, where they lie, and how a model is written.

No file here depends on private data except through a mechanism in the ledger.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from dpdm import __version__
from dpdm.config import Config
from dpdm.diffusion.mixture import Mixture
from dpdm.errors import DpdmError, RequestError
from dpdm.networks import save_weights
from dpdm.release.zoo import PREFIX, zoo_release
from dpdm.replacing import replacing

RELEASE_FILES = (
    "model.safetensors",
    "model.yaml",
    "privacy.json",
    "PRIVACY.md",
    "samples.npz",
    "report.html",
)
DRAWN = ("samples.npz", "report.html")
"""Of these, what is drawn from the model and goes when the model or its settings change."""

_FORMAT = 1


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically; see ``write_bytes``."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically (``replacing``).

    Raises:
        DpdmError: the file cannot be written (disk full, no permission).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise DpdmError(f"{path}: cannot be written ({error.strerror})") from None


def refuse_release(option: str, path: Path) -> None:
    """Keeps what is private out of what may be shared.

    Raises:
        RequestError: ``path``, which ``option`` named, lies in a release folder.
    """
    for folder in path.resolve().parents:
        run = folder.name == "release" and (folder.parent / "private").is_dir()
        if run or (folder / "privacy.json").is_file():
            raise RequestError(
                f"{option} {path}: lies in {folder}, which is made to be shared, and this is "
                "private; give another place"
            )


def read_json(path: Path, hint: str = "") -> dict[str, Any] | None:
    """A JSON object from a file, or None where there is no file.

    Raises:
        DpdmError: the file is damaged; ``hint`` says what to do.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise DpdmError(f"{path}: damaged, not readable as JSON{hint}") from None
    if not isinstance(value, dict):
        raise DpdmError(f"{path}: damaged, no JSON object{hint}")
    return value


def find_release(path: str | Path) -> Path:
    """The release folder of a run or a release given by path, or of ``zoo:NAME``.

    Raises:
        RequestError: none of these; says what is missing.
    """
    if str(path).startswith(PREFIX):
        return zoo_release(str(path).removeprefix(PREFIX))
    root = Path(path)
    for folder in (root, root / "release"):
        if (folder / "model.yaml").is_file():
            return folder
    if (root / "private").is_dir():
        raise RequestError(
            f"{root}: this run has no release yet; run `dpdm train` with --out {root} --resume"
        )
    what = (
        "no such folder" if not root.exists() else "no model.yaml in it or in its release/ folder"
    )
    raise RequestError(f"{root}: not a run or a release ({what}); give the folder that --out named")


def public_settings(config: Config) -> dict[str, Any]:
    """The configuration without what may name private things: paths, seeds of noise."""
    values = config.model_dump(mode="json")
    values["data"].pop("spec")
    values["data"].pop("on_error")
    values["privacy"].pop("noise_seed")
    values["privacy"].pop("ledger")
    if values["network"]["init"] is not None:
        values["network"]["init"] = Path(values["network"]["init"]).name
    values.pop("evaluation")
    return values


def write_release_model(
    folder: Path,
    config: Config,
    image_shape: tuple[int, int, int],
    classes: tuple[str, ...],
    network: dict[str, torch.Tensor] | None,
    mixture: Mixture | None,
    histogram: torch.Tensor | None = None,
    labeller: torch.Tensor | None = None,
) -> None:
    """Writes ``model.safetensors`` and, last, ``model.yaml``: a folder with the latter is whole.

    Args:
        folder: the release folder.
        config: the run's settings.
        image_shape: (C, H, W).
        classes: names of the classes, in label order.
        network: weights by name (the moving average), or None.
        mixture: the prior, or None.
        histogram: (Y,) noised shares of the classes, or None.
        labeller: the labeller's weight, or None.
    """
    tensors = {f"network.{name}": value for name, value in (network or {}).items()}
    if mixture is not None:
        tensors |= {f"prior.{name}": value for name, value in mixture.to_tensors().items()}
    if histogram is not None:
        tensors["labels.histogram"] = histogram
    if labeller is not None:
        tensors["labeller.weight"] = labeller
    save_weights(folder / "model.safetensors", tensors, {"format": str(_FORMAT)})
    channels, height, width = image_shape
    description = {
        "format": _FORMAT,
        "software": f"dpdm {__version__}",
        "image": {"height": height, "width": width, "channels": channels},
        "classes": list(classes),
        "config": public_settings(config),
    }
    write_description(folder / "model.yaml", description)


def write_description(path: Path, description: dict[str, Any]) -> None:
    """Writes ``model.yaml``, atomically."""
    write_text(path, yaml.safe_dump(description, sort_keys=False, allow_unicode=True))
