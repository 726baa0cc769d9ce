"""The files of a release: what they are called, where they lie, how those of text are read and
written. Nothing here needs torch, so that a statement is read without waiting for it.

No file here depends on private data except through a mechanism in the ledger.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from dpdm.config import Config
from dpdm.errors import DpdmError, RequestError
from dpdm.release.zoo import PREFIX, zoo_release
from dpdm.replacing import replacing

STATEMENT = "privacy.json"
RELEASE_FILES = (
    "model.safetensors",
    "model.yaml",
    STATEMENT,
    "PRIVACY.md",
    "samples.npz",
    "report.html",
)
DRAWN = ("samples.npz", "report.html")
"""Of these, what is drawn from the model and goes when the model or its settings change."""

FORMAT = 1


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
        RequestError: ``path``, which ``option`` named, is a release folder or lies in one.
    """
    whole = path.resolve()
    for folder in (whole, *whole.parents):
        run = folder.name == "release" and (folder.parent / "private").is_dir()
        if run or (folder / STATEMENT).is_file():
            raise RequestError(
                f"{option} {path}: {folder} is made to be shared, and what would be written is "
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


def read_description(folder: Path) -> dict[str, Any]:
    """``model.yaml`` of a release folder. DpdmError where it is damaged or of another format."""
    path = folder / "model.yaml"
    try:
        description = yaml.safe_load(path.read_text("utf-8"))
        if not isinstance(description, dict) or description.get("format") != FORMAT:
            raise DpdmError(
                f"{path}: not a model description of this version of dpdm (format {FORMAT})"
            )
        missing = {"image", "classes", "config"} - description.keys()
        if missing:
            raise DpdmError(f"{path}: damaged, {', '.join(sorted(missing))} missing")
        image, classes = description["image"], description["classes"]
        if not (
            isinstance(image, dict)
            and all(
                isinstance(image.get(key), int) and image[key] > 0
                for key in ("channels", "height", "width")
            )
            and isinstance(classes, list)
            and all(isinstance(name, str) for name in classes)
            and isinstance(description["config"], dict)
        ):
            raise DpdmError(
                f"{path}: damaged, its image, classes or config are not as dpdm writes them"
            )
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise DpdmError(f"{path}: damaged, not readable as YAML") from None
    return description


def read_statement(folder: Path) -> dict[str, Any] | None:
    """``privacy.json`` of a release folder, or None where there is none.

    Raises:
        DpdmError: the file is damaged.
    """
    return read_json(folder / STATEMENT)


def write_description(path: Path, description: dict[str, Any]) -> None:
    """Writes ``model.yaml``, atomically."""
    write_text(path, yaml.safe_dump(description, sort_keys=False, allow_unicode=True))
