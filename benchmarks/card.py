"""What a GPU gives: per-unit gradients against the CPU's, throughput, and where the time goes.

    python benchmarks/card.py --json FILE      # about two minutes

The first thing to run on a card: nothing else can be trusted before the first table. The network is
the paper's MNIST U-Net. Errors are relative, ||found - exact|| / ||exact|| over all parameters,
against float64 on the CPU, one unit at a time. Throughput counts images through the network; a step
is a forward and a backward pass, of "dpdm" with clipping and summing. "Share of peak" is the
floating-point operations of the passes (counted by torch) over the time and over a large bfloat16
matrix product's rate measured beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from common import PROBLEMS, Results, parser, table
from gradient_rows import MAX_NORM, ROWS, Task, losses, make_task
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dpdm.privacy.gradients import clip_and_sum, per_unit_gradients
from dpdm.training.differentiation import Recording

PROBLEM = PROBLEMS["mnist"]


@contextmanager
def exact_products() -> Iterator[None]:
    """float32 products in float32: torch's convolutions round to 10 bits by default (TF32)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def innermost(task: Task) -> Task:
    """The same with the channels of weights and inputs innermost."""
    network = task.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return task._replace(network=network)


def step_of(task: Task, bf16: bool, unit: bool, clip: bool = False) -> Callable[[], object]:
    """One forward and backward pass: plain, per unit, or per unit with clipping and summing."""
    device = task.inputs[0].device.type
    parameters = list(task.network.parameters())

    def step() -> object:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            if not unit:
                loss = losses(task.network, *task.inputs).mean()
            else:
                found = per_unit_gradients(task.network, losses, task.inputs, views=task.views)[1]
        if not unit:
            return torch.autograd.grad(loss, parameters)
        return clip_and_sum(found, MAX_NORM).sums if clip else found

    return step


def recorded(task: Task) -> Callable[[], object]:
    """Per-unit gradients as a training takes them: a CUDA graph, then clipping and summing."""

    def found(inputs: Sequence[Tensor | None]) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast("cuda", torch.bfloat16):
            return per_unit_gradients(task.network, losses, inputs, views=task.views)

    found(task.inputs)  # what is to be found out is, before it is recorded
    recording = Recording(found, task.inputs)
    return lambda: clip_and_sum(recording(task.inputs)[1], MAX_NORM).sums


def forward_of(task: Task) -> Callable[[], object]:
    """One evaluation of the network."""
    device = task.inputs[0].device.type

    def step() -> object:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            return losses(task.network, *task.inputs)

    return step


def exact_gradients(task: Task) -> dict[str, Tensor]:
    """Per-unit gradients one unit at a time, in float64 on the CPU."""
    network = task.network.cpu().double()
    parameters = dict(network.named_parameters())
    found = {name: p.new_empty((task.units, *p.shape)) for name, p in parameters.items()}
    for unit in range(task.units):
        rows = slice(unit * task.views, (unit + 1) * task.views)
        inputs = [x[rows].cpu() for x in task.inputs]
        own = [x.double() if x.is_floating_point() else x for x in inputs]
        gradients = torch.autograd.grad(losses(network, *own).mean(), list(parameters.values()))
        for gradient, name in zip(gradients, found, strict=True):
            found[name][unit] = gradient
    return found


def error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Relative, over all parameters."""
    squares = [(found[name].cpu().double() - exact[name]).square().sum() for name in exact]
    norms = [value.square().sum() for value in exact.values()]
    return float((sum(squares) / sum(norms)) ** 0.5)


def check(device: str) -> dict[str, float]:
    """The error of each way that a training may take on the device."""
    found = {}
    for units, views in ((6, 2), (32, 1)):
        exact = exact_gradients(make_task(PROBLEM, units, views, "cpu"))
        for layout in ("channels outermost", "channels innermost"):
            task = make_task(PROBLEM, units, views, device)
            if layout == "channels innermost":
                task = innermost(task)
            for precision in ("float32", "bfloat16"):
                with exact_products():
                    gradients = step_of(task, precision == "bfloat16", unit=True)()
                    name = f"{units} units of {views}, {precision}, {layout}"
                    found[name] = error(gradients, exact)  # type: ignore[arg-type]
        own = {key: value.cpu() for key, value in gradients.items()}  # type: ignore[attr-defined]
        sums = clip_and_sum(gradients, MAX_NORM).sums  # type: ignore[arg-type]
        name = f"{units} units of {views}, clipped and summed, against the CPU's of the same"
        found[name] = error(sums, clip_and_sum(own, MAX_NORM).sums)
    return found


def seconds(step: Callable[[], object], repeats: int, device: str) -> list[float]:
    """Of each call, after three that warm up."""
    settle = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    for repeat in range(repeats + 3):
        settle()
        started = time.perf_counter()
        result = step()
        settle()
        del result
        if repeat >= 3:
            times.append(time.perf_counter() - started)
    return sorted(times)


def matrix_rate(device: str) -> float:
    """Operations a second of a large bfloat16 matrix product."""
    size = 8192 if device == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = seconds(lambda: a @ b, 10, device)
    return 2 * size**3 / times[len(times) // 2]


def operations(task: Task) -> float:
    """Floating-point operations of a plain step, for each image."""
    few = min(8, len(task.inputs[0]))
    small = task._replace(inputs=tuple(x[:few] for x in task.inputs), units=few, views=1)
    with FlopCounterMode(display=False) as counter:
        step_of(small, bf16=False, unit=False)()
    return counter.get_total_flops() / few


def profile(step: Callable[[], object], rows: int) -> list[tuple[str, float, int]]:
    """The kernels that take longest: name, milliseconds of a step, calls."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    step()
    with profiled(activities=[ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    every = [(e.key, e.self_device_time_total / 1000, e.count) for e in seen.key_averages()]
    return sorted(every, key=lambda entry: -entry[1])[:rows]


CHECKS = ("per-unit gradients on the card", "error")
HEADER = ("row", "images/s", "ms", "share of peak", "peak GiB")


def cells(line: dict[str, Any]) -> list[str]:
    """A line of throughput as a row of the table."""
    memory = line["peak_gib"]
    return [
        line["name"],
        f"{line['images_per_second']:,.0f}",
        f"{1000 * line['seconds']:.1f}",
        f"{line['share_of_peak']:.1%}",
        "" if memory is None else f"{memory:.1f}",
    ]


def main() -> None:
    """Checks, measures, prints and appends lines."""
    made = parser(__doc__)
    made.add_argument("--profile", type=int, default=0, help="kernels to list of a step")
    made.add_argument("--only", nargs="*", default=[], help="rows; without the check")
    made.add_argument("--check", action="store_true", help="the check too")
    made.add_argument("--units", type=int, help="512 on a card, else 4")
    made.add_argument("--views", type=int, default=8)
    options = made.parse_args()
    results = Results.of("card", options)
    device = results.device
    units, views = options.units or (512 if device == "cuda" else 4), options.views
    print(f"{results.where}\n", flush=True)

    errors = check(device) if options.check or not options.only else {}
    for name, value in errors.items():
        results.write(case="mnist", part="check", name=name, error=value)
    if errors:
        print(table(CHECKS, [[name, f"{value:.1e}"] for name, value in errors.items()]), flush=True)

    rate = matrix_rate(device)
    outer = make_task(PROBLEM, units, views, device)
    each = operations(outer)
    inner = innermost(make_task(PROBLEM, units, views, device))
    rows: dict[str, tuple[Callable[[], Callable[[], object]], float]] = {
        "forward, channels outermost": (lambda: forward_of(outer), 1 / 3),
        "forward": (lambda: forward_of(inner), 1 / 3),
        "plain, channels outermost": (lambda: step_of(outer, True, False), 1),
        "plain": (lambda: step_of(inner, True, False), 1),
        "plain float32": (lambda: step_of(inner, False, False), 1),
        "per-unit gradients": (lambda: step_of(inner, True, True), 1),
        "dpdm": (lambda: step_of(inner, True, True, True), 1),
        "dpdm, recorded": (lambda: recorded(inner), 1),
        "dpdm float32": (lambda: step_of(inner, False, True, True), 1),
        "vmap": (lambda: ROWS["vmap"](make_task(PROBLEM, units, views, device)), 1),
        "Opacus hooks": (lambda: ROWS["Opacus hooks"](make_task(PROBLEM, units, views, device)), 1),
    }
    if options.only:
        rows = {name: rows[name] for name in options.only}
    shown = []
    for name, (prepare, part) in rows.items():
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            times = seconds(prepare(), 2 if options.quick else 5, device)
        except RuntimeError as error:  # memory
            print(name, str(error).splitlines()[0][:160], flush=True)
            continue
        middle = times[len(times) // 2]
        line = {
            "case": "mnist",
            "part": "throughput",
            "name": name,
            "units": units,
            "views": views,
            "images_per_second": units * views / middle,
            "seconds": middle,
            "share_of_peak": part * each * units * views / middle / rate,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
        }
        results.write(**line)
        shown.append(cells(line))
        print(shown[-1], flush=True)
    print(f"\n{each / 1e9:.2f} GFLOP an image and step; matrix product {rate / 1e12:.0f} TFLOP/s\n")
    print(f"U={units}, V={views}\n\n{table(HEADER, shown)}", flush=True)
    if options.profile and device == "cuda":
        for name in rows:
            listed = profile(rows[name][0](), options.profile)
            kernels = [[kernel[:100], f"{ms:.2f}", str(count)] for kernel, ms, count in listed]
            print(table((f"kernels of {name}", "ms", "calls"), kernels), flush=True)


if __name__ == "__main__":
    main()
