"""The zoo, made of runs of `benchmarks/recipes.py`: `src/dpdm/zoo/NAME/`, its card and picture.

    python benchmarks/zoo.py --work runs/recipes

For each set and epsilon that has lines of the preset, or of the paper's network on a GPU, the run
of seed 0 where `--work` has it: its release without samples, sealed again, a card with the line's
figures, and a hundred samples. Weights of a larger model are kept in float16. A run with a chosen
noise seed, or whose files are not as they were sealed, is refused.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from common import read_lines
from recipes import ON_GPU, PRESET, SETS, folder_name
from torch import Tensor

import dpdm
from dpdm.errors import DpdmError
from dpdm.evaluation import png_bytes, sample_grid
from dpdm.networks import load_weights, save_weights
from dpdm.release.files import read_json, write_text
from dpdm.release.seal import check_release, seal_release
from dpdm.release.zoo import zoo_root

_FILES = ("model.safetensors", "model.yaml", "PRIVACY.md")
_LICENCES = {"mnist": "CC BY-SA 3.0", "fashion": "MIT"}
_MOST_BYTES = 8_000_000
_FEW = 1000


def make(run: Path, line: dict[str, Any], root: Path) -> None:
    """A model of the zoo from a run and its line.

    Raises:
        DpdmError: the release is not private, not as it was sealed, or too large.
    """
    release, row = run / "release", f"{line['set']}-eps{line['epsilon']}"
    name = f"{line['set']}-gpu-eps{line['epsilon']}" if line["stage"] == ON_GPU else row
    report, statement = check_release(release), read_json(release / "privacy.json")
    if not report.intact or not statement or not statement["private"]:
        raise DpdmError(f"{release}: {report.problem or 'no promise'}; not for the zoo")
    if "os.urandom" not in json.dumps(statement):
        raise DpdmError(f"{release}: its noise is not the operating system's; not for the zoo")
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in _FILES:
        shutil.copyfile(release / file, folder / file)
    weights = folder / "model.safetensors"
    if weights.stat().st_size > _MOST_BYTES:
        tensors, about = load_weights(weights)
        save_weights(weights, {key: halved(value) for key, value in tensors.items()}, about)
    if (size := weights.stat().st_size) > _MOST_BYTES:
        raise DpdmError(f"{release}: {size / 1e6:.1f} MB, above {_MOST_BYTES / 1e6:.0f}")
    unsealed = {key: value for key, value in statement.items() if key not in ("files", "seal")}
    write_text(folder / "privacy.json", json.dumps(unsealed))
    seal_release(folder)
    model = dpdm.load(folder)
    grid = sample_grid(*model.sample(100, seed=0), model.classes, 10)
    (root / f"{name}.png").write_bytes(png_bytes(grid))
    card = {
        "data": SETS[line["set"]].title,
        "licence": _LICENCES[line["set"]],
        "epsilon": statement["epsilon"],
        "delta": statement["delta"],
        "preset": f"{line['set']}-{'cpu' if name == row else 'gpu'}-eps{line['epsilon']}",
        "accuracy": {key: round(100 * value, 2) for key, value in line["accuracy"].items()},
        "fd_pixels": line["fd_pixels"],
        "train_seconds": line["train_seconds"],
        "images_measured": line["images"],
    }
    write_text(root / f"{name}.json", json.dumps(card, indent=2) + "\n")


def halved(tensor: Tensor) -> Tensor:
    """In float16, but for a few numbers."""
    large = tensor.is_floating_point() and tensor.numel() > _FEW
    return tensor.half() if large else tensor


def main() -> None:
    """Makes every model that there is a run for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--zoo", type=Path, default=zoo_root())
    options = parser.parse_args()
    for line in read_lines(options.out / "recipes.jsonl"):
        run = options.work / folder_name(line["set"], line["epsilon"], line["stage"], 0, ())
        if line["stage"] in (PRESET, ON_GPU) and line["seed"] == 0 and run.is_dir():
            make(run, line, options.zoo)
            print(run)


if __name__ == "__main__":
    main()
