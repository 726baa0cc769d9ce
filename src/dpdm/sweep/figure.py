"""The figure of a sweep: accuracy and Frechet distance against what is varied.

Series differ in marker and line as well as in colour, so that it reads in grey.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpdm.sweep.grid import value_text
from dpdm.sweep.table import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLASSIFIERS = {"lr": "LR", "mlp": "MLP", "cnn": "CNN"}
_MARKERS = "os^Dv*XP"
_LINES = ("-", "--", "-.", ":")
_LIGHT = ("#0b5c8a", "#b5440c", "#00704f", "#7a3a86", "#5b5b00", "#8c1d40", "#3b4cc0", "#444444")
_DARK = ("#7fc4ef", "#f4a261", "#6fd3ad", "#d7a3e0", "#d8d870", "#f29bb0", "#a7b3ff", "#cccccc")
_INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
_MOST_PANELS = 12


@dataclass(frozen=True)
class Layout:
    """Which key is which part of the figure.

    Attributes:
        x: the key along the horizontal axis.
        series: the key whose values are lines of their own, or None: the classifiers are.
        panels: the keys whose combinations are panels side by side.
    """

    x: str
    series: str | None
    panels: tuple[str, ...]


def layout(rows: Sequence[Row]) -> Layout:
    """Numbers with the most values along the axis, then names; epsilon in panels if it can be."""
    keys = list(rows[0].values)
    values = {key: _values(rows, key) for key in keys}
    varied = [key for key in keys if len(values[key]) > 1] or keys[:1]

    def fitness(key: str) -> tuple[bool, bool, int]:
        return key != "privacy.epsilon", _is_number(values[key]), len(values[key])

    x = max(varied, key=fitness)
    rest = [key for key in varied if key != x]
    lines = [key for key in rest if key != "privacy.epsilon" and len(values[key]) <= len(_MARKERS)]
    series = max(lines, key=lambda key: len(values[key]), default=None)
    return Layout(x, series, tuple(key for key in rest if key != series))


def draw(rows: Sequence[Row], frechet: str, *, dark: bool = False, private: bool = True) -> Figure:
    """A figure with accuracy above and Frechet distance below; mean and spread over seeds.

    Args:
        rows: of the table; one at least.
        frechet: what the distance is called.
        dark: light ink, for a dark page; the background stays clear.
        private: says that it is; False where the data is public.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ink = "#e6e4df" if dark else "#1d2126"
    style: Any = dict.fromkeys(_INKED, ink)
    chosen = layout(rows)
    panels = list(itertools.product(*(_values(rows, key) for key in chosen.panels)))
    panels = [panel for panel in panels if _within(rows, chosen.panels, panel)]
    left_out, panels = len(panels[_MOST_PANELS:]), panels[:_MOST_PANELS]
    has_accuracy = any("cnn" in row.measures for row in rows)
    with rc_context(style):
        height = 2 if has_accuracy else 1
        figure = Figure(
            figsize=(1.4 + 3.9 * len(panels), 0.7 + 2.9 * height), dpi=150, layout="constrained"
        )
        FigureCanvasAgg(figure)
        grid = figure.subplots(height, len(panels), squeeze=False, sharex=True, sharey="row")
        colours = _DARK if dark else _LIGHT
        for column, panel in enumerate(panels):
            inside = _within(rows, chosen.panels, panel)
            title = ", ".join(
                f"{key}={value_text(v)}" for key, v in zip(chosen.panels, panel, strict=True)
            )
            for row, axes in enumerate(grid[:, column]):
                accuracy = has_accuracy and row == 0
                _panel(axes, rows, inside, chosen, accuracy, colours, ink)
                if column == 0:
                    axes.set_ylabel(_label(chosen, accuracy, frechet))
            grid[0, column].set_title(title, fontsize="medium")
            grid[-1, column].set_xlabel(chosen.x)
        for axes in grid[:, 0]:
            handles, names = axes.get_legend_handles_labels()
            if len(names) > 1:
                axes.legend(handles, names, frameon=False, fontsize="small", labelcolor=ink)
        seeds = sorted({row.seeds for row in rows})
        figure.supxlabel(
            f"mean and standard deviation over seeds ({' or '.join(map(str, seeds))})"
            + ("; measured on real images: private" if private else "")
            + (f"; {left_out} more panels left out, see the table" if left_out else ""),
            fontsize="small",
        )
    return figure


def to_png(figure: Figure) -> bytes:
    """On white."""
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor="white")
    return file.getvalue()


def to_svg(figure: Figure, *, clear: bool) -> str:
    """On white, or on nothing."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.hashsalt": "dpdm", "svg.fonttype": "none"}):
        figure.savefig(
            file, format="svg", facecolor="none" if clear else "white", metadata={"Date": None}
        )
    return file.getvalue()


def _label(chosen: Layout, accuracy: bool, frechet: str) -> str:
    if not accuracy:
        return f"Frechet distance ({frechet})"
    return "accuracy %" if chosen.series is None else "accuracy % (CNN)"


def _panel(
    axes: Axes,
    everything: Sequence[Row],
    inside: Sequence[Row],
    chosen: Layout,
    accuracy: bool,
    colours: Sequence[str],
    ink: str,
) -> None:
    """One measure of the rows of one panel: a line for each series."""
    axes.set_facecolor("none")
    place, joined = _axis(axes, _values(everything, chosen.x))
    if chosen.series is not None:
        measure = "cnn" if accuracy else "frechet"
        names = [
            (value_text(value), _within(inside, (chosen.series,), (value,)), measure)
            for value in _values(everything, chosen.series)
        ]
    elif accuracy:
        names = [(label, list(inside), name) for name, label in _CLASSIFIERS.items()]
    else:
        names = [("", list(inside), "frechet")]
    factor = 100 if accuracy else 1
    for index, (label, rows, name) in enumerate(names):
        points = [
            (row.values[chosen.x], row.measures[name]) for row in rows if name in row.measures
        ]
        if not points:
            continue
        aside = index - (len(names) - 1) / 2
        axes.errorbar(
            [place(x, aside) for x, _ in points],
            [factor * mean for _, (mean, _) in points],
            yerr=[factor * (spread or 0.0) for _, (_, spread) in points],
            label=label or None,
            color=colours[index % len(colours)],
            marker=_MARKERS[index % len(_MARKERS)],
            linestyle=_LINES[index % len(_LINES)] if joined else "none",
            markersize=6,
            linewidth=1.4,
            capsize=3,
        )
    axes.grid(alpha=0.25, color=ink, linewidth=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _axis(axes: Axes, values: Sequence[Any]) -> tuple[Callable[[Any, float], float], bool]:
    """Sets the horizontal axis up.

    Returns:
        Where a value lies, a little aside for each series so that error bars do not hide each
        other; and whether its points are joined by lines, as numbers are and names are not.
    """
    labels = [value_text(value) for value in values]
    if not _is_number(values) or len(values) < 2:
        axes.set_xticks(range(len(values)), labels)
        axes.set_xlim(-0.5, len(values) - 0.5)
        return lambda value, aside: values.index(value) + 0.1 * aside, False
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low >= 4
    if logarithmic:
        axes.set_xscale("log", base=2 if all(_is_power_of_two(v) for v in values) else 10)
    axes.set_xticks(values, labels)
    axes.minorticks_off()
    if logarithmic:
        step = (high / low) ** 0.008
        return lambda value, aside: value * step**aside, True
    return lambda value, aside: value + 0.008 * (high - low) * aside, True


def _is_power_of_two(value: float) -> bool:
    return math.log2(value).is_integer()


def _is_number(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _values(rows: Sequence[Row], key: str) -> list[Any]:
    """The values of a key in the order of the rows."""
    found: list[Any] = []
    for row in rows:
        if row.values[key] not in found:
            found.append(row.values[key])
    return found


def _within(rows: Sequence[Row], keys: Sequence[str], values: Sequence[Any]) -> list[Row]:
    """The rows that have these values of these keys."""
    return [row for row in rows if [row.values[key] for key in keys] == list(values)]
