"""``dpdm pretrain``: first weights for a network from public images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpdm.cli.console import Display, out
from dpdm.cli.options import Device, Settings, load, open_with
from dpdm.errors import RequestError


def register(app: typer.Typer) -> None:
    """Adds the command of this file."""
    app.command("pretrain")(pretrain_command)


def pretrain_command(
    public: Annotated[
        str,
        typer.Argument(
            metavar="procedural|SPEC",
            help="Images made by code, or public images by name or path. Never private ones.",
        ),
    ],
    source: Annotated[
        str,
        typer.Option("--for", metavar="PRESET|CONFIG.yaml", help="Whose network is pretrained."),
    ],
    out_path: Annotated[Path, typer.Option("--out", metavar="FILE.safetensors", help="Weights.")],
    settings: Settings = None,
    steps: Annotated[int, typer.Option(help="Training steps.", min=1)] = 12_000,
    batch_size: Annotated[int, typer.Option(help="Images a step.", min=1)] = 256,
    learning_rate: Annotated[float, typer.Option(help="At its highest.", min=1e-8)] = 3e-3,
    count: Annotated[
        int, typer.Option("--count", help="Procedural images that are drawn.", min=1)
    ] = 200_000,
    size: Annotated[int, typer.Option(help="Their height and width.", min=4, max=256)] = 32,
    seed: Annotated[int, typer.Option(help="Of images, weights and batches.", min=0)] = 0,
    device: Device = "auto",
) -> None:
    """Pretrain a network on public images; a run begins from it with --set network.init=FILE."""
    config = load(source, settings)
    if out_path.exists():
        raise RequestError(f"--out {out_path}: exists already; give another file")
    from dpdm.release.precision import resolve_device
    from dpdm.training.pretraining import PROCEDURAL, Pretraining, pretrain

    where = resolve_device(device)

    if public == PROCEDURAL:
        from dpdm.data.procedural import procedural_images

        images = procedural_images(count, size, size, config.data.channels or 1, seed)
        name = "procedural images, made by code"
    else:
        dataset = open_with(config, public)
        images, name = dataset.public_images(), dataset.name
    how = Pretraining(name, steps, batch_size, learning_rate, seed)
    with Display() as shown:
        pretrain(
            images,
            config,
            how,
            out_path,
            lambda done, total, loss: shown.update("pretraining", done, total, f"loss {loss:.4f}"),
            where,
        )
    out.print(f"weights in {out_path}: use --set network.init={out_path}")
