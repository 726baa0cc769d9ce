"""What the CPU presets are worth, stage by stage: those of MNIST, Fashion-MNIST and CIFAR-10.

    python benchmarks/recipes.py --data /path/to/sets --work DIR        # on two cores

Stages: the prior alone, with the whole budget; the preset as it is, pretrained network, gradient
steps and labeller where it has them; and, with `--stage`, the prior and a labeller that its samples
are moved by, without a network, and the paper's method at the same compute:
the preset's network from random weights and its batches, no statistics, no labeller, class as an
embedding, Churn from pure noise. With `--ablation`, also the preset without its labeller, and
before its gradient steps, of the same run. Each is sampled (60,000 images) and measured by the
paper's three classifiers on the real test images, for seeds from `--first-seed` to `--seeds`, which
name runs: noise is from the operating system.
Runs lie in `--work` and go on there after an interruption. Lines are appended to
`docs/results/recipes.jsonl` one by one, what is there is not done again, and the section between
the markers of `docs/results.md` is written from them, with a picture of each set. `--held-out`
keeps 10,000 training images out and measures on those instead, with runs in `--work`/held-out, and
writes nothing: settings are chosen that way (`--set`), never on the test images. `--document` only
writes the page, and the table of the README. `benchmarks/registries.py` gets the official
Fashion-MNIST and CIFAR-10 where only package registries can be reached; a row is of the edition of
Fashion-MNIST that was found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import (
    ROOT,
    append_line,
    find_device,
    lines_so_far,
    machine,
    median_and_range,
    run_command,
    write_between,
)
from common import table as padded

from dpdm import Config, Run, load_config, open_dataset, pipeline
from dpdm.config import preset_names
from dpdm.data import Dataset
from dpdm.errors import RequestError
from dpdm.evaluation import evaluate, png_bytes, sample_grid
from dpdm.evaluation.published import Published, published_figures
from dpdm.training.run import train


@dataclass(frozen=True)
class Measured:
    """A set that rows are of: its title, the name that opens it, what its CNN is held against.

    Attributes:
        title: as ``open_dataset`` gives it, which tells editions apart.
        data: name of the data and of its presets.
        goals: issue 7's, by epsilon, in percent; so are the others.
        dpdm: the paper's method as DPImageBench measured it, where the paper has no figure.
        feta: DP-FETA.
    """

    title: str
    data: str
    goals: Mapping[str, float]
    feta: Mapping[str, float]
    dpdm: Mapping[str, float] = field(default_factory=dict)


_FASHION_GOALS = {"10": 86.2, "1": 83.5, "0.2": 78.5}
_FASHION_FETA = {"10": 87.3, "1": 81.7}
SETS = {
    "mnist": Measured(
        "MNIST", "mnist", {"10": 98.3, "1": 97.8, "0.2": 97.0}, {"10": 98.1, "1": 95.6}
    ),
    "fashion-official": Measured("Fashion-MNIST", "fashion", _FASHION_GOALS, _FASHION_FETA),
    "fashion": Measured(
        "Fashion-MNIST (repackaged split)", "fashion", _FASHION_GOALS, _FASHION_FETA
    ),
    "cifar10": Measured(
        "CIFAR-10", "cifar10", {}, {"10": 43.3, "1": 35.1}, {"10": 36.8, "1": 28.9}
    ),
}
GREY = {name: SETS[name].title for name in ("mnist", "fashion")}
"""The sets that other benchmarks' lines are of: MNIST, and the repackaged Fashion-MNIST."""
EPSILONS = ("10", "1", "0.2")
ROWS = [
    f"{name}-{epsilon}"
    for name in dict.fromkeys(each.data for each in SETS.values())
    for epsilon in EPSILONS
    if f"{name}-cpu-eps{epsilon}" in preset_names()
]
BEGIN, END = "<!-- written by benchmarks/recipes.py -->", "<!-- end of benchmarks/recipes.py -->"
PRIOR, LABELLED, PRESET, PAPER, ON_GPU = RELEASED = (
    "prior alone",
    "prior and labeller",
    "preset",
    "paper's method",
    "GPU preset",
)
"""Stages that are releases of runs of their own."""
AS_DRAWN = "preset, as drawn"
AS_FITTED = "prior alone, as fitted"
HELD_OUT = "held-out"
"""The folder within `--work` of runs that see 50,000 training images."""
STAGES = {
    "paper's method, 80 steps": "tried: the paper's method in 80 steps (commit c192f5e)",
    PAPER: "the paper's method, the same compute",
    "prior alone, shared": "tried: prior alone, clusters share a covariance (commit 935cb88)",
    "prior alone, reduced": "tried: prior alone, a third of the detail (`prior.detail=reduced`)",
    AS_FITTED: "tried: prior alone, not calibrated (`prior.calibrate=false`)",
    PRIOR: "prior alone, all of epsilon",
    LABELLED: "prior and labeller, samples moved to where it finds their label",
    "Pretrained": "the preset before its gradient steps, labels as asked for",
    "After DP-SGD": "the preset, labels as asked for",
    "preset, c_skip x": "tried: base c_skip x, sampling from 0.7 (the preset of commit cb40958)",
    "preset, informed": "tried: base informed, sampling from 5 (the preset of commit aae050b)",
    "preset, 200 steps": "tried: 200 steps of 4 views (the preset of commit feeb9b9)",
    "preset, together": "tried: labels together (the preset of commit 2980c06)",
    "preset, pooled": "tried: one covariance, network (the preset of commit 2980c06)",
    "After DP-SGD, 80 steps": "tried: 80 steps of 2,048, labels as asked for",
    "preset, 80 steps": "tried: 80 steps of 2,048 (the preset of commit 1d18d38)",
    "preset, labeller": "tried: with a labeller (the preset of commit 0f31924)",
    "preset, shared": "tried: clusters share a covariance (the preset of commit 7d33183)",
    "preset, 0.4": "tried: 0.4 of epsilon for the prior (the preset of commit bcd4ce4)",
    AS_DRAWN: "tried: samples as drawn (the preset of commit e1c76b6)",
    PRESET: "**the preset**",
    "GPU preset, two minutes": "tried: two minutes of gradient steps on one H100 (commit 20929b3)",
    ON_GPU: "the GPU preset, on one H200",
}
ALONE = (
    "training.steps=0",
    "network.init=null",
    "labeller.enabled=false",
    "sampling.labeller_guidance=0",
    "diffusion.sigma_range=null",
    "sampling.start=noise",
    "prior.detail=kept",
    "prior.calibrate=true",
)
WITH_LABELLER = (*ALONE, "labeller.enabled=true", "sampling.labeller_guidance=1")
_LABELLERS_SHARE = {"10": 0.3, "1": 0.4, "0.2": 0.6}
PAPERS = (
    "prior.enabled=false",
    "labeller.enabled=false",
    "sampling.labeller_guidance=0",
    "network.init=null",
    "diffusion.base=skip",
    "diffusion.sigma_range=null",
    "sampling.start=noise",
    "sampling.reading=together",
    "sampling.sampler=churn",
    "sampling.steps=10",
    "sampling.sigma_min=0.002",
    "sampling.sigma_max=80",
    "sampling.s_churn=10",
    "sampling.s_min=0.025",
    "sampling.s_max=50",
)
_PAPERS_AT_LEAST = (
    "privacy.epsilon=0.2",
    "training.steps=160",
    "diffusion.config=v",
)
_HELD_OUT = 10_000

Line = dict[str, Any]
Samples = tuple[Any, Any]


def open_set(name: str, folder: Path | None, title: str | None = None) -> tuple[Dataset, Dataset]:
    """Training and test images of a named set, from a folder that holds it or where it is found.

    Raises RequestError where it is not the edition of ``title``.
    """
    if folder:
        os.environ["DPDM_DATA"] = str(folder)
    data, test = open_dataset(name), open_dataset(f"{name}@test")
    if title is not None and data.name != title:
        raise RequestError(f"these lines are of {title}, and what was found is {data.name}")
    return data, test


def set_of(data: Dataset) -> str:
    """Which of ``SETS`` was opened."""
    found = [key for key, each in SETS.items() if each.title == data.name]
    if not found:
        raise RequestError(f"{data.name} is none of the sets that have rows")
    return found[0]


def published(name: str, epsilon: str, sampler: str = "accuracy") -> Published | None:
    """The paper's own row of a set, if any, under its sampler for ``accuracy`` or ``fid``."""
    rows = published_figures(SETS[name].title, float(epsilon))
    found = (row for row in rows if row.method.lower() == f"dpdm, sampler for {sampler}")
    return next(found, None)


def papers_cnn(name: str, epsilon: str) -> str:
    """Accuracy of the CNN by the paper's method on its computers, in percent."""
    row = published(name, epsilon)
    figure = 100 * row.accuracy["cnn"] if row else SETS[name].dpdm.get(epsilon)
    return f"{figure:.1f}" if figure else ""


def held_out(data: Dataset) -> tuple[Dataset, Dataset]:
    """The training images without 10,000 of them, and these."""
    order = np.random.default_rng(0).permutation(data.private_count)
    return part(data, order[_HELD_OUT:]), part(data, order[:_HELD_OUT])


def part(data: Dataset, chosen: npt.NDArray[np.int64]) -> Dataset:
    """Some images of a labelled set, by number."""
    assert data.private_labels is not None
    return replace(
        data,
        public_size=len(chosen),
        private_images=data.private_images[chosen],
        private_labels=data.private_labels[chosen],
    )


def row_config(name: str, epsilon: str, stage: str, more: Sequence[str] = ()) -> Config:
    """The settings of a row.

    The paper's method has the preset's image passes. The presets of 0.2 take no gradient step:
    there it has half of the steps of 1, as the paper takes fewer there, and the paper's DM config
    ``v``.
    """
    presets = SETS[name].data
    if stage == ON_GPU:
        return load_config(f"{presets}-gpu-eps{epsilon}", more)
    if stage == LABELLED:
        share = f"labeller.share={_LABELLERS_SHARE[epsilon]}"
        return load_config(f"{presets}-cpu-eps{epsilon}", [*WITH_LABELLER, share, *more])
    if stage != PAPER:
        alone = ALONE if stage == PRIOR else ()
        return load_config(f"{presets}-cpu-eps{epsilon}", [*alone, *more])
    if epsilon == "0.2":
        return load_config(f"{presets}-cpu-eps1", [*PAPERS, *_PAPERS_AT_LEAST, *more])
    return load_config(f"{presets}-cpu-eps{epsilon}", [*PAPERS, *more])


def is_prior_alone(name: str, epsilon: str) -> bool:
    """Whether the preset is the prior alone already, so that the two are one row."""
    return row_config(name, epsilon, PRESET) == row_config(name, epsilon, PRIOR)


def is_row(name: str, epsilon: str, stage: str) -> bool:
    """Whether there is such a row: a preset that is the prior alone has none beside it."""
    if stage == ON_GPU:
        return f"{SETS[name].data}-gpu-eps{epsilon}" in preset_names()
    return stage != PRIOR or not is_prior_alone(name, epsilon)


def train_row(
    name: str,
    epsilon: str,
    stage: str,
    seed: int,
    data: Dataset,
    work: Path,
    more: Sequence[str],
) -> Run:
    """The run of a row, from where it was left; on a GPU where the row is for one."""
    config = row_config(name, epsilon, stage, [f"training.seed={seed}", *more])
    folder = work / folder_name(name, epsilon, stage, seed, more)
    device = _device(stage)
    return train(data, config, folder, resume=folder.is_dir(), device=device)


def _device(stage: str) -> str:
    return "cuda" if stage == ON_GPU else "cpu"


def folder_name(name: str, epsilon: str, stage: str, seed: int, more: Sequence[str]) -> str:
    """Of a run, in `--work`; trials have folders of their own by their settings."""
    words = stage.replace("'", "").replace(" ", "-")
    trial = f"-{hashlib.sha256(' '.join(more).encode()).hexdigest()[:8]}" if more else ""
    return f"{name}-{epsilon}-{words}-{seed}{trial}"


def draw(run: Run, stage: str) -> tuple[Samples, float]:
    """60,000 images of a stage, and the seconds that took."""
    started = time.perf_counter()
    if stage in RELEASED:
        pipeline.sample_release(run, device=_device(stage))
        samples = pipeline.read_samples(run)
        return samples, float(run.folder.read_state()["sampling_seconds"])
    model = next(found.model for found in pipeline.stage_models(run) if found.name == stage)
    samples = model.sample(run.config.sampling.count, seed=run.config.training.seed)
    return samples, time.perf_counter() - started


def measured(
    run: Run, stage: str, name: str, epsilon: str, data: Dataset, test: Dataset
) -> tuple[Line, Samples]:
    """A stage of a run: its line and its samples."""
    samples, drawing = draw(run, stage)
    cache = run.folder.private / "cache"
    result = evaluate(
        samples,
        train=data,
        test=test,
        metrics=["classifiers", "fid"],
        inception="none",
        features=["pixels"],
        cache=cache,
    )
    seed = run.config.training.seed
    steps = [record for record in run.folder.read_metrics() if record["phase"] == "DP-SGD"]
    return {
        "set": name,
        "epsilon": epsilon,
        "stage": stage,
        "seed": seed,
        "spent": run.statement()["epsilon"],
        "images": len(samples[0]),
        "image_passes": 0 if stage == "Pretrained" else sum(step["images"] for step in steps),
        "train_seconds": round(float(run.folder.read_state()["training_seconds"]), 1),
        "sample_seconds": round(drawing, 1),
        "device": find_device(_device(stage))[1],
        "model_bytes": (run.release / "model.safetensors").stat().st_size,
        "accuracy": {key: round(value, 4) for key, value in result["accuracy"].items()},
        "fd_pixels": round(result["fd-pixels"], 3),
        "command": f"python benchmarks/recipes.py --data FOLDER --only {SETS[name].data}-{epsilon} "
        f"{stage_options(stage)} --first-seed {seed} --seeds {seed + 1}",
        "machine": machine(),
    }, samples


def stage_options(stage: str) -> str:
    """What asks for a stage on the command line."""
    if stage in RELEASED:
        return f"--stage {shlex.quote(stage)}"
    return f"--stage {PRESET} --ablation"


def lines_of(lines: Sequence[Line], name: str, epsilon: str, *stages: str) -> list[Line]:
    """The runs of a row: of the first of these stages that has any."""
    for stage in stages:
        key = (name, epsilon, stage)
        found = [line for line in lines if (line["set"], line["epsilon"], line["stage"]) == key]
        if found:
            return found
    return []


def table(lines: Sequence[Line], name: str) -> list[str]:
    """Markdown rows of a set: one for each epsilon and stage."""
    rows = [
        "| epsilon | stage | runs | LR | MLP | CNN | goal | paper | DP-FETA | pixel distance "
        "| image passes | train, s | 60,000 samples, s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for epsilon in EPSILONS:
        for stage, title in STAGES.items():
            found = lines_of(lines, name, epsilon, stage)
            if not found:
                continue
            if stage == PRESET and is_prior_alone(name, epsilon):
                title += ", which is the prior alone"
            cells = [epsilon, title, str(len(found))]
            for classifier in ("lr", "mlp", "cnn"):
                values = [100 * line["accuracy"][classifier] for line in found]
                cells.append(median_and_range(values))
            cells += [str(SETS[name].goals.get(epsilon, "")), papers_cnn(name, epsilon)]
            cells.append(str(SETS[name].feta.get(epsilon, "")))
            distances = [line["fd_pixels"] for line in found if "fd_pixels" in line]
            cells.append(f"{statistics.median(distances):.2f}" if distances else "")
            for number in ("image_passes", "train_seconds", "sample_seconds"):
                cells.append(f"{statistics.median(line[number] for line in found):,.0f}")
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def section(lines: Sequence[Line]) -> str:
    """The generated part of ``docs/results.md``."""
    parts = []
    for name, each in SETS.items():
        if any(line["set"] == name for line in lines):
            part = [f"**{each.title}**", "\n".join(table(lines, name))]
            if lines_of(lines, name, "10", PRESET):
                part.append(f"![{each.title}, epsilon 10](results/recipes-{name}.png)")
            parts += part
    return "\n\n".join(parts)


def document(lines: Sequence[Line], page: Path) -> None:
    """Writes the section between the markers of ``page``."""
    write_between(page, (BEGIN, END), section(lines))


def summary(lines: Sequence[Line]) -> str:
    """The table of the README: medians of the CNN's accuracy, and the prior's seconds."""

    def medians(name: str, epsilon: str, *stages: str) -> tuple[str, str]:
        found = lines_of(lines, name, epsilon, *stages)
        if not found:
            return "", ""
        accuracy = statistics.median(100 * line["accuracy"]["cnn"] for line in found)
        return (
            f"{accuracy:.1f}",
            f"{statistics.median(line['train_seconds'] for line in found):.0f}",
        )

    rows = []
    for name, each in SETS.items():
        for epsilon in EPSILONS:
            if not any((line["set"], line["epsilon"]) == (name, epsilon) for line in lines):
                continue
            alone = is_prior_alone(name, epsilon)
            prior, seconds = medians(name, epsilon, *([PRESET] if alone else [PRIOR, AS_FITTED]))
            preset = "" if alone else medians(name, epsilon, PRESET, AS_DRAWN)[0]
            labelled = medians(name, epsilon, LABELLED)[0]
            paper, feta = papers_cnn(name, epsilon), str(each.feta.get(epsilon, ""))
            card = medians(name, epsilon, ON_GPU)[0]
            ours = prior, seconds, labelled, preset, card
            rows.append((f"{each.title}, {epsilon}", *ours, paper, feta))
    header = ("set, epsilon", "prior alone", "its s", "and labeller", "preset", "GPU preset")
    return padded((*header, "DPDM", "DP-FETA"), rows)


def summarise(lines: Sequence[Line], readme: Path) -> None:
    """Writes the table between the markers of the README."""
    write_between(readme, (BEGIN, END), summary(lines))


def picture(samples: Samples, data: Dataset, path: Path) -> None:
    """Ten samples a class, not picked."""
    path.write_bytes(png_bytes(sample_grid(*samples, data.classes, 10, scale=2, gap=2)))


def made_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder that holds mnist/, fashion/, cifar10/")
    parser.add_argument("--work", type=Path, default=Path("runs/recipes"), help="the runs")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs/results", help="another folder measures all anew"
    )
    parser.add_argument("--only", nargs="*", choices=ROWS, help="all, where none is named")
    parser.add_argument("--stage", choices=RELEASED, action="append")
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--seeds", type=int, default=1, help="up to this one, from --first-seed")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--document", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], help="settings of trials, with --held-out")
    return parser


def main() -> None:
    """Measures what is missing and writes lines, pictures and the page."""
    parser = made_parser()
    options = parser.parse_args()
    if options.set and not options.held_out:
        parser.error("--set is for trials: add --held-out")
    torch.set_num_threads(options.threads)
    results, page = options.out / "recipes.jsonl", options.out.parent / "results.md"
    rows = [
        (row, stage, seed)
        for seed in range(options.first_seed, options.seeds)
        for row in ([] if options.document else options.only or ROWS)
        for stage in options.stage or (PRIOR, PRESET)
        if is_row(*row.split("-"), stage)
    ]
    for row, stage, seed in rows:
        asked, epsilon = row.split("-")
        data, test = open_set(asked, options.data)
        name = set_of(data)
        if options.held_out:
            data, test = held_out(data)
        parts = [stage, *(("Pretrained", "After DP-SGD") if options.ablation else ())]
        for part in parts if stage == PRESET else [stage]:
            done = lines_of(lines_so_far(results), name, epsilon, part)
            if not options.held_out and seed in [line["seed"] for line in done]:
                continue
            work = options.work / HELD_OUT if options.held_out else options.work
            run = train_row(name, epsilon, stage, seed, data, work, options.set)
            line, samples = measured(run, part, name, epsilon, data, test)
            print(json.dumps(line), flush=True)
            if not options.held_out:
                append_line(results, line)
                if (epsilon, part, seed) == ("10", PRESET, 0):
                    picture(samples, data, options.out / f"recipes-{name}.png")
    if not options.held_out:
        document(lines_so_far(results), page)
        if results.parent == ROOT / "docs" / "results":
            summarise(lines_so_far(results), ROOT / "README.md")


if __name__ == "__main__":
    run_command(main)
