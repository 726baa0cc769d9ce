"""What per-unit gradients cost beside an ordinary step: one table, rows timed in turn, medians.

    .venv/bin/python benchmarks/per_unit_gradients.py --case mnist --repeats 5 --threads 1

Rows: `plain` is the ordinary gradient of the mean loss; `dpdm` is per_unit_gradients; `dpdm+clip`
adds norms, clip factors and the clipped sum; `loop` takes one ordinary gradient for each unit;
`opacus` (if installed) takes the gradient of every view by hooks and averages over views.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dpdm.networks.unet import UNet
from dpdm.privacy.gradients import clip_and_sum, per_unit_gradients

try:
    from opacus import GradSampleModule
except ImportError:
    GradSampleModule = None


class Case(NamedTuple):
    size: int
    base_channels: int
    multipliers: tuple[int, ...]
    attention: tuple[int, ...]
    units: int
    views: int


CASES = {
    "mnist": Case(28, 32, (1, 2, 2), (7,), 8, 16),  # the paper's network, 1,753,345 parameters
    "mnist-u64": Case(28, 32, (1, 2, 2), (7,), 64, 4),
    "digits": Case(8, 24, (1, 2), (4,), 64, 4),
}


def build(case: Case) -> UNet:
    """The network of a case, for grey images of ten classes."""
    return UNet(
        image_size=case.size,
        in_channels=1,
        out_channels=1,
        base_channels=case.base_channels,
        multipliers=case.multipliers,
        attention=case.attention,
        classes=10,
    )


def loss(module: nn.Module, x: Tensor, c_noise: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """The mean squared error of each row."""
    error: Tensor = module(x, c_noise, labels) - target
    return error.square().flatten(1).mean(1)


def rows(case: Case) -> dict[str, Callable[[], object]]:
    """Name -> one step."""
    torch.manual_seed(0)
    network = build(case)
    with torch.no_grad():
        for parameter in network.parameters():  # no layer at zero: every kernel has work to do
            parameter.add_(0.02 * torch.randn_like(parameter))
    n, units, views = case.units * case.views, case.units, case.views
    inputs = (
        torch.randn(n, 1, case.size, case.size),
        torch.randn(n),
        torch.randn(n, 1, case.size, case.size),
        torch.randint(10, (n,)),
    )
    parameters = list(network.parameters())

    def plain() -> object:
        return torch.autograd.grad(loss(network, *inputs).mean(), parameters)

    def dpdm() -> dict[str, Tensor]:
        return per_unit_gradients(network, loss, inputs, views=views)[1]

    def clipped() -> object:
        return clip_and_sum(dpdm(), 1.0)

    def loop() -> object:
        slices = [[x[u * views : (u + 1) * views] for x in inputs] for u in range(units)]
        return [torch.autograd.grad(loss(network, *s).mean(), parameters) for s in slices]

    found = {"plain": plain, "dpdm": dpdm, "dpdm+clip": clipped, "loop": loop}
    if GradSampleModule is not None:
        hooked = GradSampleModule(build(case), loss_reduction="sum")
        hooked.load_state_dict({f"_module.{k}": v for k, v in network.state_dict().items()})

        def opacus() -> object:
            loss(hooked, *inputs).sum().backward()
            means = [
                p.grad_sample.view(units, views, *p.shape).mean(1) for p in hooked.parameters()
            ]
            hooked.zero_grad()
            return means

        found["opacus"] = opacus
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock",
        choices=("wall", "thread"),
        default="wall",
        help="thread: CPU time of this thread, for a busy machine (with --threads 1)",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.thread_time if arguments.clock == "thread" else time.perf_counter
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.clock} time")
    print(
        f"{'case':12s} {'U':>3s} {'V':>3s}  {'row':10s} {'ms':>8s} {'images/s':>9s} {'/ plain':>8s}"
    )
    for name in arguments.case:
        case = CASES[name]
        steps = rows(case)
        times: dict[str, list[float]] = {row: [] for row in steps}
        for repeat in range(arguments.repeats + 1):
            for row, step in steps.items():
                start = clock()
                step()
                if repeat:  # the first round warms up
                    times[row].append(clock() - start)
        medians = {row: statistics.median(values) for row, values in times.items()}
        for row, seconds in medians.items():
            print(
                f"{name:12s} {case.units:3d} {case.views:3d}  {row:10s} {1e3 * seconds:8.1f} "
                f"{case.units * case.views / seconds:9.1f} {seconds / medians['plain']:8.2f}"
            )


if __name__ == "__main__":
    main()
