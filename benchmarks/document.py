"""Writes docs/performance.md from result lines: every number in it is one of theirs.

    python benchmarks/document.py

Of each benchmark, case and device the newest run is shown; a full run goes before a quick one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import per_unit_gradients
from common import BF16, KEPT, RESULTS, ROOT, read_lines, table

Line = dict[str, Any]

DOCUMENT = ROOT / "docs" / "performance.md"

INTRODUCTION = """# Performance

    python benchmarks/run.py

measures and writes this page anew. A table's figures are from lines of `{results}`. Times are
medians; "low" and "high" are the least and the greatest. What else the machine did while it
measured is in the figures too: run it on a quiet one.
"""

GRADIENTS = """
Per-unit gradients of U units of V views, beside the ordinary gradient of the mean loss over the
same U*V images. Each row has a process of its own and the rows take a step in turn, the slow ones
fewer. `time / plain` is the median over rounds of a row's time over that of `plain` in the same
round. `peak MiB` is the process's largest memory (on CUDA the allocator's), the first call and its
checks included, and `memory / plain` its ratio; `step MiB` leaves out what the process held before
its first step: interpreter, torch, network, inputs.

- `plain`: forward and backward of the mean loss; `dpdm`: `per_unit_gradients`; `dpdm+clip`: then
  `clip_and_sum`.
- `bf16`: under autocast; per-unit gradients, norms and sums stay float32. `time / plain` is over
  `plain` in float32.
- `Opacus hooks`: `GradSampleModule`, the gradient of every view, then their mean over the views of
  a unit. No clipping.
- `Opacus ghost`: `GradSampleModuleFastGradientClipping` never holds per-unit gradients, so it
  cannot average over views before it clips: it takes **each view for a unit of its own**. It does
  the work of `dpdm+clip` at V=1 on as many images, and its sum is not the one that noise
  multiplicity needs.
- `vmap`: `torch.func.vmap` of `grad` of a unit's mean loss over units. `loop`: an ordinary gradient
  for each unit.
- `kept`: the same in a process that keeps freed memory, as every `dpdm` command does; their ratios
  are over `plain kept`, those of `bf16 kept` over `plain bf16 kept`. Opacus's convolutions leave
  gradients in bfloat16 there, dpdm's are float32. On the Xeon these rows were measured after the
  others, which at U=64 filled the machine's memory together. The other rows run as a Python program
  does of itself: glibc hands large freed blocks back, and the kernel faults in and zeroes every
  page again in the next step.

On a CPU a large pass goes in parts of units, so that no tensor is so large (32 MiB) that glibc
hands it back (`src/dpdm/privacy/gradients/parts.py`); where memory is kept, it gains nothing and
all rows go at once. Alone on the EPYC of the fifth generation that this page's EPYC rows are
from, 8 units of 16 views took 982 ms and take 904, an ordinary step 890; 64 of 4 took 2,202 and
take 2,031, an ordinary step 2,079. The largest memory falls by a third. In the table the
processes of all rows lie in memory together, which makes page faults dearer still. The Xeon's
rows are from before.

What limits the factor over Opacus at U=8: where memory is kept, it takes 1.7 to 2 times an ordinary
step, and dpdm hardly more than one, so that only a step faster than the ordinary one would gain
more. Where it is not, Opacus's gradients of every view are two gigabytes of page faults a step, and
the factor depends on what these cost: 1.8 on an EPYC of the third generation, whose rows were here
before, and 3.1 (2.4 alone) on that of the fifth. On the Xeon two thirds of dpdm's step are
convolutions, in oneDNN's kernels and the same as the ordinary step's. Compiling does not help: the
whole call traced to one graph (6,078 operations, 4 units of 16 views, one thread, float32) took
torch's inductor 230 s and then ran at 37.9 images/s, uncompiled at 37.7. Two processes of a thread
each, as a training runs, give 74 images/s where one of two threads gives 67. With fewer views of
more units, as at U=64, Opacus's gradients of every view cost more and the factor is above 2.

With channels innermost (`channels_last`) the ordinary float32 step is faster, by hand on the idle
Xeon: one thread, 4 units of 16 views, 1.49 s where it took 1.69; two threads, 8 units, 1.63 and
1.93. Rules that bring activations into that layout, one call for each unit's weight gradients and
sums by channel for GroupNorm, took dpdm from 1.93 to 1.80 s and from 2.14 to 2.00: short of the
factor 2.3 too, and not kept. What stands against that layout is torch's GroupNorm: forward it takes
2 to 3 times as long as in the usual one and backward half as long again, in bfloat16 7 to 8 times,
and what can be made of torch's other operations is no faster.

Since the Xeon's rows were measured, the arithmetic of backward rules is not looked at by the
interception any more, which costs Python for each of some thousand operations whatever their size.
By hand on an EPYC of the third generation whose other core was busy, one thread, processor time of
a pass, medians of 24, before and after in turn: the digits' network, 64 units of 2 views, 182 and
157 ms; that of `fashion-cpu-eps10`, 32 of 2, 345 and 323; the paper's on MNIST, 8 of 4, 1,867 and
1,814.
"""

STEP = """
Own time of each phase of a step in `dpdm.train`, on random images of the data's shape and
number, with noise from the operating system and a ledger on disk. Where fewer units went
through the network than the batch has, the phases that run once for each microbatch (gather,
views, forward and backward, clip and sum, accumulate) are multiplied up; microbatch, views and
what is done once a step are those of the preset. Microbatches go one after the other here, with
all threads, and noise is drawn after them, so that phases can be told apart; a training on a
CPU takes microbatches side by side, and draws its noise meanwhile. Left out:
checkpoints and the accountant's reports, which are not of every step. The lines of GPUs, a whole
step, are of real runs (`docs/results/paper.jsonl`; `fashion-gpu-eps10` in `recipes.jsonl`), while
labellers, priors and classifiers of other rows were fitted on the same machine's processor.
"""

SIDE_BY_SIDE = """
Gradients and clipping of one microbatch for each core, of the size that a training takes, as
`benchmarks/side_by_side.py` measures them; the three ways take a round in turn. A training on a
CPU begins with threads, and goes on in processes once they have started, where its steps will
take more than 20 seconds; the numbers are the same.
"""

SAMPLING = """
Images drawn a second. A few sampler steps are timed; the rate at the preset's number of steps
follows from the evaluations of the denoiser that an image costs. With guidance one evaluation is of
a doubled batch.

Since these rows were measured, parts of a batch are denoised side by side on a CPU, a core each,
and no core has more at a time than its cache holds. Images a second by hand on two cores of an
EPYC (slower that day than when the rows of its name were measured), before and after in
turn, medians of three: `digits` in batches of 500, 208 and 235; a release of `fashion-cpu-eps1`,
500, 141 and 166; one of `own` for colour images of 32x32, 250, 49 and 55; the paper's U-Net, 32,
6.2 and 6.3, and (two runs) 200, 4.9 and 7.1. With another program on one of the cores the release
of `fashion-cpu-eps1` is drawn at 61 a second where it was 22; with a single thread beside it, at
94. Memory at most, 500 images of the paper's U-Net in a batch: 546 MiB and 1,020.
"""


CARD = """
The paper's MNIST U-Net by `benchmarks/card.py`, in microbatches as large as a training's. Rows:
`forward`, an evaluation without gradients; `plain`, forward and backward of the mean loss by
autograd; `per-unit gradients`; `dpdm`, with clipping and summing; `recorded`, the gradients as
one CUDA graph. bfloat16 under autocast where nothing else is said, channels innermost where not
outermost. Errors are relative, over all parameters, against float64 on the CPU one unit at a
time; those of bfloat16 are what it has on a CPU. "Share of peak" is the operations of the
passes over the rate of a large bfloat16 matrix product.

The tables of the H100 are of earlier states: the first had kernels for weight gradients and
GroupNorm alone, with torch's own GroupNorm in `plain`, which turns every map to channels outermost
and back; vmap ran out of memory. Of the second, rows are lower bounds: a pretraining ran on the
same card. The table of the H200 is of the present one: normalisation, swish, the convolution's
bias and the noise level's shift are one kernel, the end of a residual block another, in both
directions; weight gradients stay as they lie; clipping reads the gradients twice, once for norms
and once for the sum in float64. The processor drew images beside it (6 of 16 cores), which rows
asked for call by call feel (`per-unit gradients`, `dpdm`), and `recorded`, as a training takes
them, does not.

What stands in the way of 160,000 images/s (25.6 ms for 4,096 images; here 85.8): of some 75 ms
that the card is busy, 13 are the backward normalisation, 13 weight gradients, 7 the forward
normalisation, 15 the convolutions themselves in both directions, 4 the clipped sums and norms;
the rest are copies, skips put beside each other, sums where paths join. With 32 and 64 channels all
of these pass over maps, and by a count of their bytes the normalisations run at a third of what the
memory can carry. A whole step of `fashion-gpu-eps10` (8,192 images, 0.24 s, 34,000 images/s) has 40
to 50 ms beside the recorded graph in which the card waits for calls one by one: views, the prior's
posterior mean, noise, the sum by parameter, Adam.
"""


def newest(lines: Iterable[Line]) -> dict[tuple[str, str, str], list[Line]]:
    """(benchmark, case, device name) -> the lines of its newest run, a full one if there is one."""
    runs: dict[tuple[str, str, str], dict[tuple[bool, str], list[Line]]] = {}
    for line in lines:
        key = (line["benchmark"], line["case"], line["device_name"])
        when = (not line["quick"], line["started"])
        runs.setdefault(key, {}).setdefault(when, []).append(line)
    return {key: each[max(each)] for key, each in runs.items()}


def _machine(line: Line) -> str:
    made = line["machine"]
    opacus = f", Opacus {made['opacus']}" if made["opacus"] else ""
    busy = made["busy_cores"]
    others = "" if busy is None else f"; cores busy with other work when it began: {busy:g}"
    card = f"{line['device_name']}; " if line["device"] == "cuda" else ""
    short = "; **a quick run, only to see that it works**" if line["quick"] else ""
    return (
        f"{card}{made['processor']}, {made['cores']} cores, {made['memory_gib']} GiB; "
        f"{line['threads']} threads; Python {made['python']}, torch {made['torch']}{opacus}; "
        f"{line['started'][:10]}, commit {made['commit']}{others}{short}"
    )


def _ratio(lines: Sequence[Line], above: str, below: str) -> str:
    """Images a second of one row over those of another."""
    rates = {line["row"]: line.get("images_per_second") for line in lines}
    if not (rates.get(above) and rates.get(below)):
        return ""
    return f"{rates[above] / rates[below]:.2f}"


def summary(found: dict[tuple[str, str, str], list[Line]]) -> str:
    """What the tables come to, a row for each case."""
    rows = []
    for (benchmark, case, device), lines in found.items():
        if benchmark != "per_unit_gradients":
            continue
        where = f"{case}, U={lines[0]['units']}, V={lines[0]['views']}, {device}"
        for suffix, said in ("", ""), (KEPT, ", memory kept"), (BF16 + KEPT, ", bfloat16, kept"):
            own = next((line for line in lines if line["row"] == f"dpdm{suffix}"), None)
            if own is None:
                continue
            time = f"{own['time_ratio']['median']:.2f}" if "time_ratio" in own else ""
            memory = f"{own['peak_ratio']:.2f}" if "peak_ratio" in own else ""
            others = [f"{name}{suffix}" for name in ("Opacus hooks", "vmap", "loop")]
            ratios = [_ratio(lines, f"dpdm{suffix}", other) for other in others]
            ratios += [_ratio(lines, f"dpdm+clip{suffix}", f"Opacus ghost{suffix}")]
            rows.append([where + said, time, memory, *ratios])
    header = (
        "case",
        "time / plain",
        "memory / plain",
        "x Opacus hooks",
        "x vmap",
        "x loop",
        "x Opacus ghost",
    )
    return (
        "dpdm beside the others: its time and peak memory over those of an ordinary step, and its "
        "images\na second over theirs (over `Opacus ghost`: those of `dpdm+clip`). `memory kept`:\n"
        "every process keeps what it frees, as `dpdm` commands do;\n`bfloat16, kept`: "
        "under autocast, as a training is where the processor computes it, `plain`\nand the others "
        "too.\n\n"
        f"{table(header, rows)}\n"
    )


def _gradients(lines: Sequence[Line]) -> str:
    head = lines[0]
    rows = [per_unit_gradients.cells(line) for line in lines]
    title = f"U={head['units']}, V={head['views']}"
    return f"{title}\n\n{table(per_unit_gradients.HEADER, rows)}\n"


def _step(lines: Sequence[Line]) -> str:
    import training_step

    head, rows = lines[0], [training_step.cells(line) for line in lines]
    title = (
        f"B={head['batch_size']}, V={head['views']}, microbatch {head['microbatch']}, "
        f"precision {head['precision']}; "
        f"{head['steps']} steps, {head['units']:g} units through the network in each"
    )
    return f"{title}\n\n{table(training_step.HEADER, rows)}\n"


def _side_by_side(lines: Sequence[Line]) -> str:
    import side_by_side

    head, rows = lines[0], [side_by_side.cells(line) for line in lines]
    title = (
        f"{head['units']} units of {head['views']} views in a microbatch; {head['rounds']} rounds"
    )
    return f"{title}\n\n{table(side_by_side.HEADER, rows)}\n"


def _sampling(lines: Sequence[Line]) -> str:
    import sampling

    head, rows = lines[0], [sampling.cells(line) for line in lines]
    title = (
        f"batches of {head['images']}, {head['steps_timed']} steps timed, "
        f"precision {head['precision']}"
    )
    return f"{title}\n\n{table(sampling.HEADER, rows)}\n"


def _card(lines: Sequence[Line]) -> str:
    import card

    parts = []
    if checks := [line for line in lines if line["part"] == "check"]:
        parts.append(table(card.CHECKS, [[x["name"], f"{x['error']:.1e}"] for x in checks]))
    timed = [line for line in lines if line["part"] == "throughput"]
    rows = [card.cells(line) for line in timed]
    title = f"U={timed[0]['units']}, V={timed[0]['views']}"
    return "\n\n".join([*parts, title, table(card.HEADER, rows)]) + "\n"


SECTIONS: tuple[tuple[str, str, str, Callable[[Sequence[Line]], str]], ...] = (
    ("per_unit_gradients", "Per-unit gradients", GRADIENTS, _gradients),
    ("training_step", "A step of DP-SGD", STEP, _step),
    ("side_by_side", "Microbatches side by side on a CPU", SIDE_BY_SIDE, _side_by_side),
    ("sampling", "Sampling", SAMPLING, _sampling),
    ("card", "On a GPU", CARD, _card),
)


def document(lines: Iterable[Line], results: str) -> str:
    """The page in Markdown."""
    found = newest(lines)
    parts = [INTRODUCTION.format(results=results)]
    if any(benchmark == "per_unit_gradients" for benchmark, _, _ in found):
        parts.append(summary(found))
    for name, title, text, body in SECTIONS:
        chosen = [(key, own) for key, own in found.items() if key[0] == name]
        if not chosen:
            continue
        parts.append(f"## {title}\n{text}")
        for (_, case, device), own in chosen:
            parts.append(f"### {case}, {device}\n\n{body(own)}\n{_machine(own[0])}\n")
    return "\n".join(parts)


def write(results: Path, out: Path) -> None:
    """Writes the page ``out`` from the lines in ``results``."""
    name = results.resolve()
    shown = name.relative_to(ROOT) if name.is_relative_to(ROOT) else name
    out.write_text(document(read_lines(results), str(shown)), "utf-8")


def main() -> None:
    """Writes the page from the lines that are there."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--json", type=Path, default=RESULTS)
    made.add_argument("--out", type=Path, default=DOCUMENT)
    options = made.parse_args()
    write(options.json, options.out)


if __name__ == "__main__":
    main()
