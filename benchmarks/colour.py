"""A person's own colour folder: what `own` and `own-prior` make of it, in what time and memory.

    python benchmarks/colour.py --data /path/to/fashion --work DIR      # on two cores, 30 minutes
    python benchmarks/colour.py --data /path/to/fashion --work DIR --preset own-prior   # five

No set of colour photographs can be had offline, so one is put together: Fashion-MNIST's items, each
class in a colour of its own, on crops of scikit-learn's two photographs (even classes on one, odd
on the other), 32x32, 20,000 to train on and 2,000 to test with, as PNG in a folder a class. Then
the commands that a person would give, each in its process: `dpdm train own`, `dpdm sample`,
`dpdm evaluate`. A line with their seconds and peak memory goes to `docs/results/colour.jsonl`,
a picture and the table of each preset's newest line into `docs/`. `--document` only writes the
table anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import (
    ROOT,
    append_line,
    lines_so_far,
    machine,
    read_lines,
    table,
    timed,
    write_between,
)
from pictures import side_by_side
from PIL import Image
from sklearn.datasets import load_sample_image

from dpdm import open_dataset
from dpdm.evaluation import sample_grid

RESULTS, PAGE = ROOT / "docs" / "results", ROOT / "docs" / "results.md"
MARKS = "<!-- written by benchmarks/colour.py -->", "<!-- end of benchmarks/colour.py -->"
SIDE, PER_CLASS, SAMPLES = 32, {"train": 2000, "test": 200}, 20_000
COMMANDS = ("train", "sample", "evaluate")
PICTURES = {"own": "colour.png", "own-prior": "colour-prior.png"}
_COLOURS = (
    (220, 40, 40),
    (40, 90, 220),
    (240, 200, 40),
    (40, 170, 80),
    (200, 80, 200),
    (240, 140, 40),
    (90, 210, 220),
    (245, 245, 245),
    (120, 70, 30),
    (30, 30, 60),
)
_PHOTOS, _PHOTO_SIZE = ("china.jpg", "flower.jpg"), (320, 214)

Pixels = npt.NDArray[np.uint8]
Line = dict[str, Any]


def coloured(items: Pixels, label: int, random: np.random.Generator) -> Pixels:
    """Grey items (n, 28, 28, 1) of a class in its colour on crops of its photograph, (n, 32, 32,
    3)."""
    photo = Image.fromarray(load_sample_image(_PHOTOS[label % 2])).resize(_PHOTO_SIZE)
    ground = np.asarray(photo, float)
    made = np.empty((len(items), SIDE, SIDE, 3), np.uint8)
    margin = (SIDE - items.shape[1]) // 2
    for index, item in enumerate(items):
        top, left = (random.integers(0, size - SIDE) for size in ground.shape[:2])
        crop = ground[top : top + SIDE, left : left + SIDE]
        if random.random() < 0.5:
            crop = crop[:, ::-1]
        light = np.pad(item[..., 0] / 255.0, margin)[..., None]
        colour = np.clip(np.array(_COLOURS[label]) + random.normal(0, 15, 3), 0, 255)
        cover = np.clip(4 * light, 0, 1)
        made[index] = np.clip(crop * (1 - cover) + cover * colour * (0.35 + 0.65 * light), 0, 255)
    return made


def write_folder(spec: str, folder: Path) -> None:
    """The stand-in as PNG files, ``folder``/train/CLASS and ``folder``/test/CLASS."""
    for split, source in (("train", spec), ("test", f"{spec}@test")):
        data, random = open_dataset(source), np.random.default_rng(len(split))
        assert data.private_labels is not None
        for label, name in enumerate(data.classes):
            own = np.flatnonzero(data.private_labels == label)[: PER_CLASS[split]]
            place = folder / split / name.replace("/", "-")
            place.mkdir(parents=True)
            images = coloured(np.asarray(data.private_images[own]), label, random)
            for index, image in enumerate(images):
                Image.fromarray(image).save(place / f"{index:04d}.png")


def measure(options: argparse.Namespace) -> Line:
    """Trains, samples and evaluates; makes the folder where it is not there."""
    folder, run = options.work / "images", options.work / options.preset
    if not folder.is_dir():
        write_folder(options.data, folder)
    train, test, made = folder / "train", folder / "test", options.work / f"{options.preset}.npz"
    settings = ["--set", *options.set] if options.set else []
    command = ["train", options.preset, "--data", f"{train}", "--out", f"{run}", *settings]
    measured = timed("train", command)
    measured |= timed("sample", ["sample", f"{run}", "-n", f"{SAMPLES}", "--out", f"{made}"])
    about = ["--train", f"{train}", "--test", f"{test}", "--json", f"{options.work}/found.json"]
    what = ["--metrics", "classifiers,fid", "--inception", "none", "--features", "pixels"]
    measured |= timed("evaluate", ["evaluate", f"{made}", *about, *what])
    found = json.loads((options.work / "found.json").read_text("utf-8"))
    steps = lines_so_far(run / "private" / "metrics.jsonl")  # none where there are no steps
    private = [step for step in steps if step["phase"] == "DP-SGD"]
    statement = json.loads((run / "release/privacy.json").read_text("utf-8"))
    return {
        "preset": options.preset,
        "epsilon": statement["epsilon"],
        "delta": statement["delta"],
        "settings": options.set,
        "images": 10 * PER_CLASS["train"],
        "samples": SAMPLES,
        "steps": len(private),
        "steps_seconds": round(sum(step["seconds"] for step in private), 1),
        "accuracy": found["accuracy"],
        "fd_pixels": found.get("fd-pixels"),
        **measured,
        "machine": machine(),
    }


def section(lines: Sequence[Line]) -> str:
    """The generated part of the page: the newest line of each preset."""
    newest = {line.get("preset", "own"): line for line in lines}
    rows, made, images = [], [], []
    for name, image in PICTURES.items():
        if name not in newest:
            continue
        line, row = newest[name], [f"`{name}`"]
        for command in COMMANDS:
            peak = line.get(f"{command}_peak_bytes")  # none of a command that was given by hand
            row.append(f"{line[f'{command}_seconds']:,.0f}")
            row.append("" if peak is None else f"{peak / 2**30:.2f}")
        row += [f"{100 * line['accuracy'][kind]:.1f}" for kind in ("lr", "mlp", "cnn")]
        rows.append([*row, f"{line['fd_pixels']:.1f}"])
        where = line["machine"]
        made.append(
            f"`{name}`: {line['steps']} steps of DP-SGD, {where['processor']}, torch "
            f"{where['torch']}, commit {where['commit']}."
        )
        images.append(
            f"![Ten real images of each class, and ten samples of {name}](results/{image})"
        )
    heads = [head for command in COMMANDS for head in (f"{command}, s", "GiB")]
    last = lines[-1]
    return "\n\n".join(
        [
            table(("preset", *heads, "LR", "MLP", "CNN", "pixel distance"), rows),
            f"Epsilon {last['epsilon']:.3g}, delta {last['delta']:g}; accuracy in percent on the "
            f"real test images of classifiers trained on {last['samples']:,} samples.",
            *made,
            *images,
        ]
    )


def document(lines: Sequence[Line], page: Path) -> None:
    """Writes the table of the page anew."""
    write_between(page, MARKS, section(lines))


def picture(work: Path, preset: str) -> bytes:
    """Ten real images of each class on the left, ten samples on the right, none picked."""
    real, drawn = open_dataset(f"{work}/images/train"), np.load(work / f"{preset}.npz")
    assert real.private_labels is not None
    pairs = (
        (real.private_images, real.private_labels),
        (drawn["images"], drawn["labels"]),
    )
    grids = [
        sample_grid(np.asarray(images), np.asarray(labels), real.classes, 10, scale=2, gap=2)
        for images, labels in pairs
    ]
    return side_by_side(grids)


def made_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="fashion", help="Fashion-MNIST: name or path")
    parser.add_argument("--work", type=Path, default=Path("runs/colour"))
    parser.add_argument("--preset", choices=PICTURES, default="own")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the run")
    parser.add_argument("--document", action="store_true", help="only write the table anew")
    return parser


def main() -> None:
    """Measures once more, or only writes the page."""
    options = made_parser().parse_args()
    path = RESULTS / "colour.jsonl"
    if not options.document:
        line = measure(options)
        print(json.dumps(line))
        append_line(path, line)
        image = picture(options.work, options.preset)
        (RESULTS / PICTURES[options.preset]).write_bytes(image)
    document(read_lines(path), PAGE)


if __name__ == "__main__":
    main()
