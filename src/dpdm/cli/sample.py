"""``dpdm sample``: labelled images from a run, a release or a model of the zoo, which ``dpdm zoo``
lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dpdm.cli.console import Display, note, out, print_json, table
from dpdm.cli.options import Device, Json, Release
from dpdm.errors import RequestError, first_few


def register(app: typer.Typer) -> None:
    """Adds the commands of this file."""
    app.command("sample")(sample_command)
    app.command("zoo")(zoo_command)


def sample_command(
    source: Release,
    count: Annotated[int, typer.Option("-n", "--count", help="Number of images.")] = 1000,
    out_path: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE.npz|FILE.parquet|DIR/", help="Default: samples-N.npz here."
        ),
    ] = None,
    labels: Annotated[
        str,
        typer.Option(
            metavar="uniform|histogram|0,1,2",
            help="Which classes, how often; numbers, or names where these are no numbers.",
        ),
    ] = "uniform",
    sampler: Annotated[
        str | None,
        typer.Option(metavar="churn|heun|ddim|ddim-stochastic|dpmpp-2m", help="Sampler."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the sampler.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance, 0 for none.")
    ] = None,
    labeller_guidance: Annotated[
        float | None,
        typer.Option(
            help="How far samples are moved to where the release's labeller finds their label, "
            "0 for not at all; default: as the release has it."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the draw reproducible.")] = None,
    settings: Annotated[
        str | None, typer.Option(help="The release's named sampler settings, for example fid.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images drawn together; bounds the memory.", min=1)
    ] = None,
    device: Device = "auto",
) -> None:
    """Draw labelled synthetic images; costs no privacy, however many."""
    from dpdm.data import check_writable, write_samples
    from dpdm.release.files import find_release
    from dpdm.release.model import load
    from dpdm.release.seal import check_release

    path = out_path or Path(f"samples-{count}.npz")
    model = load(source)
    check_writable(path, model.classes)
    seal = check_release(find_release(source))
    if seal.sealed and not seal.intact:
        note(f"warning: {seal.problem}; `dpdm privacy statement` says more")
    with Display() as shown:
        images, drawn = model.sample(
            count,
            labels=parse_labels(labels, model.classes),
            sampler=sampler,
            steps=steps,
            guidance=guidance,
            labeller_guidance=labeller_guidance,
            seed=seed,
            settings=settings,
            batch_size=batch_size,
            device=device,
            progress=lambda done, total: shown.update("sampling", done, total),
        )
    write_samples(path, images, drawn if model.classes else None, model.classes)
    out.print(f"{count} images in {path}", markup=False)
    if model.statement is None:
        note("warning: this release holds no privacy.json; nothing is known about its promise")
    elif not model.statement.get("private"):
        note("warning: NOT PRIVATE: this model was trained without a guarantee")


def zoo_command(as_json: Json = False) -> None:
    """List the models that come with the program: `dpdm sample zoo:NAME`."""
    from dpdm.release.zoo import PREFIX, zoo_cards

    cards = zoo_cards()
    if as_json:
        print_json(
            {"models": [{"name": f"{PREFIX}{name}", **card} for name, card in cards.items()]}
        )
        return
    table(
        (
            "model",
            "trained on",
            "epsilon",
            "delta",
            "LR %",
            "MLP %",
            "CNN %",
            "licence of the data",
        ),
        [
            (
                f"{PREFIX}{name}",
                card["data"],
                f"{card['epsilon']:g}",
                f"{card['delta']:g}",
                *(f"{card['accuracy'][key]:.1f}" for key in ("lr", "mlp", "cnn")),
                card["licence"],
            )
            for name, card in cards.items()
        ],
    )
    note("accuracy on the real test images of classifiers trained on 60,000 samples")


def parse_labels(text: str, classes: Sequence[str] = ()) -> str | list[int]:
    """``uniform``, ``histogram`` or a list of class numbers, names of ``classes`` among them.

    Raises:
        RequestError: neither.
    """
    if text in ("uniform", "histogram"):
        return text
    try:
        return [_class_number(part, classes) for part in text.split(",")]
    except ValueError:
        named = f", or names: {', '.join(first_few(classes, 10))}" if classes else ""
        raise RequestError(
            f"--labels {text}: use uniform, histogram or class numbers such as 0,1,2{named}"
        ) from None


def _class_number(part: str, classes: Sequence[str]) -> int:
    """What is a number is one, else the place of the name; ValueError where it is neither."""
    try:
        return int(part)
    except ValueError:
        return list(classes).index(part)
