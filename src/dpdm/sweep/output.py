"""The files that a sweep is read from: table as CSV, Markdown and HTML, figure as PNG and SVG."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from dpdm.promise.wording import at_most
from dpdm.release.files import write_bytes, write_text
from dpdm.sweep.figure import draw, layout, to_png, to_svg
from dpdm.sweep.folder import SweepFolder
from dpdm.sweep.spending import Composed
from dpdm.sweep.table import Line, Row, cells, headings, rows_of, to_csv, to_markdown


@dataclass(frozen=True)
class Page:
    """What the template of ``table.html`` shows."""

    title: str
    subtitle: str
    epsilon: str | None
    delta: str
    trainings: int
    sentences: tuple[str, ...]
    light: str
    dark: str
    alt: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: int
    footer: str


def write_outputs(folder: SweepFolder, lines: Sequence[Line], composed: Composed) -> None:
    """Writes all of them anew from the result lines, of which there is one at least."""
    keys, rows = list(lines[0]["values"]), rows_of(lines)
    frechet = lines[0]["frechet_measure"]
    figure = draw(rows, frechet)
    write_text(folder.path / "table.csv", to_csv(keys, rows))
    write_text(folder.path / "table.md", to_markdown(keys, rows, frechet))
    write_bytes(folder.path / "figure.png", to_png(figure))
    write_text(folder.path / "figure.svg", to_svg(figure, clear=False))
    write_text(folder.path / "table.html", render_page(lines, rows, composed))


def render_page(lines: Sequence[Line], rows: Sequence[Row], composed: Composed) -> str:
    """The page: loads nothing, in the dress of the reports."""
    environment = Environment(
        loader=ChoiceLoader(
            [
                PackageLoader("dpdm.sweep", "templates"),
                PackageLoader("dpdm.evaluation", "templates"),
            ]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("sweep.html.j2").render(page=_page(lines, rows, composed))


def _page(lines: Sequence[Line], rows: Sequence[Row], composed: Composed) -> Page:
    first, keys = lines[0], list(lines[0]["values"])
    varied = [key for key in keys if len({str(row.values[key]) for row in rows}) > 1] or keys
    frechet = first["frechet_measure"]
    figures = [draw(rows, frechet, dark=dark) for dark in (False, True)]
    light, dark = (_data(to_svg(figure, clear=True)) for figure in figures)
    versions = sorted({f"dpdm {line['version']} ({line['commit']})" for line in lines})
    devices = sorted({str(line["device"]) for line in lines})
    return Page(
        title=f"Sweep of {', '.join(varied)}",
        subtitle=f"{len(lines)} cells on {first['data']}, {len(rows)} settings",
        epsilon=None if composed.epsilon is None else at_most(composed.epsilon),
        delta=f"{composed.delta:g}",
        trainings=composed.trainings,
        sentences=tuple(_sentences(composed)),
        light=light,
        dark=dark,
        alt=f"Accuracy and Frechet distance against {layout(rows).x}; the table has the figures.",
        caption=(
            "Mean and sample standard deviation over seeds. Accuracy in percent, on real test "
            "images, of classifiers trained on the synthetic ones; Frechet distance to the "
            f"training set ({frechet}), lower is better. Epsilon spent is that of one training, by "
            "its ledger."
        ),
        columns=headings(keys, frechet),
        rows=tuple(cells(keys, row) for row in rows),
        keys=len(keys),
        footer=f"{', '.join(versions)}; computed on {', '.join(devices)}",
    )


def _sentences(composed: Composed) -> list[str]:
    found = []
    if composed.trainings:
        found.append(
            "Each training keeps the epsilon in its row of the table. Whoever chooses a setting "
            "from this page, or publishes several of its models, lets out something that depends "
            "on all of them, and spends the epsilon of all together, computed from their ledgers."
        )
    if composed.not_private:
        found.append(composed.not_private)
    return found


def _data(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
