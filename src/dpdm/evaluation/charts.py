"""Line charts as inline SVG, coloured by the page's style sheet for light and dark."""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

Points = Sequence[tuple[float, float]]

# Drawn small and scaled up by the page: text stays readable on a phone.
_WIDTH, _HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 40
_MOST_POINTS = 300
_SMOOTH_FROM = 30


def line_chart(
    points: Points,
    *,
    label: str,
    x_label: str,
    y_label: str,
    level: tuple[float, str] | None = None,
    from_zero: bool = False,
) -> Markup:
    """A chart of (x, y) points in rising x, with axes; ``label`` is its text for screen readers.

    Points that are not finite are left out. Long series are averaged into 300 points. From 30
    points on, a running mean is drawn over the faint series. The y axis is logarithmic where
    positive values span more than a factor of 30, unless it is to start at 0 (``from_zero``).
    ``level`` is a value with its name, drawn as a dashed line across. Returns an <svg> element;
    empty without points.
    """
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return Markup()
    points = _thinned(points)
    values = [y for _, y in points] + ([] if level is None else [level[0]])
    low, high = min(values), max(values)
    if from_zero:
        low = min(0.0, low)
    logarithmic = low > 0 and high / low > 30
    y_ticks = _log_ticks(low, high) if logarithmic else _ticks(low, high)
    x_ticks = _ticks(points[0][0], points[-1][0], whole=True)
    x_low, x_high = x_ticks[0], x_ticks[-1]
    if not logarithmic:
        low, high = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        share = (x - x_low) / (x_high - x_low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        if logarithmic:
            share = math.log(y / low) / math.log(high / low)
        else:
            share = (y - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    if level is not None:
        y = up(level[0])
        parts.append(f'<path class="level" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT + 4}" y="{y + 14:.1f}">{escape(level[1])}</text>')
    drawn = [(across(x), up(y)) for x, y in points]
    if len(drawn) >= _SMOOTH_FROM:
        parts.append(f'<path class="faint" d="{_path(drawn)}"/>')
        drawn = [(across(x), up(y)) for x, y in _running_mean(points)]
    parts.append(f'<path class="line" d="{_path(drawn)}"/>')
    if len(drawn) == 1:
        parts.append(f'<circle class="dot" cx="{drawn[0][0]:.1f}" cy="{drawn[0][1]:.1f}" r="3"/>')
    x_axis = [(across(tick), tick_text(tick)) for tick in x_ticks]
    y_axis = [(up(tick), tick_text(tick)) for tick in y_ticks]
    return _framed(parts, x_axis, y_axis, label, x_label, y_label)


def rates_chart(points: Points, *, label: str, x_label: str, y_label: str) -> Markup:
    """A chart of shares against shares, as they are, over the faint diagonal; axes in percent.

    ``label`` is its text for screen readers. Returns an <svg> element; empty without points.
    """
    if not points:
        return Markup()

    def across(x: float) -> float:
        return _LEFT + x * (_WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        return _HEIGHT - _BOTTOM - y * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<path class="{kind}" d="{_path([(across(x), up(y)) for x, y in line])}"/>'
        for kind, line in (("faint", ((0.0, 0.0), (1.0, 1.0))), ("line", points))
    ]
    ticks = [tick / 4 for tick in range(5)]
    x_axis = [(across(tick), tick_text(100 * tick)) for tick in ticks]
    y_axis = [(up(tick), tick_text(100 * tick)) for tick in ticks]
    return _framed(parts, x_axis, y_axis, label, x_label, y_label)


def _framed(
    drawn: Sequence[str],
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    label: str,
    x_label: str,
    y_label: str,
) -> Markup:
    """The picture: rules and axes with ticks (place, text), and over them what is drawn."""
    parts = []
    for y, text in y_ticks:
        parts.append(f'<path class="rule" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    base = _HEIGHT - _BOTTOM
    for x, text in x_ticks:
        parts.append(f'<path class="axis" d="M{x:.1f} {base}v4"/>')
        parts.append(f'<text x="{x:.1f}" y="{base + 16}" text-anchor="middle">{text}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {base}H{_WIDTH - _RIGHT}"/>')
    parts += drawn
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
    )
    height = (_TOP + base) / 2
    parts.append(
        f'<text transform="translate(12 {height:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    # Safe: every text above is a number or escaped.
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def tick_text(value: float) -> str:
    """A short number for an axis: 0, 0.05, 250, 1,500, 20k, 1e-05."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= factor:
                return f"{value / factor:g}{suffix}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


def _thinned(points: Points) -> Points:
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(len(points) / _MOST_POINTS)
    return [_mean(points[start : start + size]) for start in range(0, len(points), size)]


def _running_mean(points: Points) -> Points:
    reach = max(1, len(points) // 20)
    return [
        (x, _mean(points[max(0, index - reach) : index + reach + 1])[1])
        for index, (x, _) in enumerate(points)
    ]


def _mean(points: Points) -> tuple[float, float]:
    return (
        sum(x for x, _ in points) / len(points),
        sum(y for _, y in points) / len(points),
    )


def _path(points: Points) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round values that enclose [low, high] from 0 or from just below low, about five of them."""
    if low > 0 and low < 0.5 * high:
        low = 0.0
    if high <= low:
        low, high = (low - 1, high + 1) if whole or low == 0 else sorted((0.0, 2 * low))
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power * 5 >= high - low)
    if whole:
        step = max(1.0, step if step >= 5 else round(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Values 1, 2 and 5 times powers of ten within [low, high]; of many, the powers alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 2, 5), (1,)):
        ticks = [m * 10.0**power for power in powers for m in multiples]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 6:
            return ticks
    return ticks[:: -(-len(ticks) // 6)]
