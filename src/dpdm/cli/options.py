"""Options that several commands share, described once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdm.cli.console import note, reading
from dpdm.errors import RequestError, first_few

if TYPE_CHECKING:
    from dpdm.config import Config
    from dpdm.data import Dataset

Source = Annotated[
    str, typer.Argument(metavar="PRESET|CONFIG.yaml", help="A preset's name or a YAML file.")
]
Release = Annotated[
    str,
    typer.Argument(metavar="RUN|RELEASE|zoo:NAME", help="Folder of a run or release, or zoo."),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="SPEC", help="Training images: a name (`dpdm data list`) or a path."
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Run folder; default runs/NAME.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE ...", help="Change settings, one or more."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Force = Annotated[
    bool, typer.Option("--force", help="Move an existing run aside and start a new one.")
]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


_PROBLEMS_SHOWN = 5


def load(source: str, settings: list[str] | None) -> Config:
    """The configuration a command names."""
    from dpdm.config import load_config

    return load_config(source, settings or ())


def open_training_data(config: Config, data: str | None) -> Dataset:
    """The training images of ``--data`` or of the configuration."""
    spec = data or config.data.spec
    if spec is None:
        raise RequestError(
            f"{config.name}: no data; give --data SPEC (a name from `dpdm data list`, a folder, "
            ".npz or .parquet)"
        )
    return open_with(config, spec)


def refuse_in_data(out: Path, config: Config, data: str | None) -> None:
    """Keeps what is written out of the data: its files would be read as images and classes."""
    from dpdm.data.catalogue import NAMED
    from dpdm.data.opening import split_spec
    from dpdm.data.paths import user_path

    name, _ = split_spec(data or config.data.spec or "")
    folder = user_path(name).resolve()
    if not name or name in NAMED or not folder.is_dir():
        return
    if out.resolve().is_relative_to(folder):
        raise RequestError(
            f"--out {out}: lies in the data, {folder}, where its files would be read as images and "
            "its folders as classes; give a place outside of it"
        )


def open_with(config: Config, spec: str) -> Dataset:
    """A data set, brought to the size and channels of the configuration."""
    from dpdm.data import open_dataset

    with reading(spec) as progress:
        found = open_dataset(
            spec,
            image_size=config.data.image_size,
            channels=config.data.channels,
            on_error=config.data.on_error,
            public_size=config.data.public_size,
            progress=progress,
        )
    if left := found.private_problems:
        first = "; ".join(first_few(left, _PROBLEMS_SHOWN))
        note(f"left out of {spec} (data.on_error=skip): {first}")
    return found if config.data.labels else found.without_labels()
