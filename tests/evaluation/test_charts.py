"""Line charts: what is drawn, where, and with which ticks."""

import re
from xml.etree import ElementTree

import pytest

from dpdm.evaluation.charts import line_chart, rates_chart, tick_text


def draw(points, **labels):
    names = {"label": "loss against step", "x_label": "step", "y_label": "loss", **labels}
    return line_chart(points, **names)


def line(svg, name="line"):
    """The points of a path, in the coordinates of the picture."""
    path = re.search(rf'class="{name}" d="M([^"]*)"', svg)[1]
    return [tuple(map(float, pair.split())) for pair in path.split("L")]


def ticks(svg):
    texts = [element.text for element in ElementTree.fromstring(svg).iter("text")]
    return [text for text in texts if text not in ("step", "loss")]


def test_the_chart_is_one_labelled_picture():
    root = ElementTree.fromstring(draw([(0, 1), (1, 2)]))
    assert root.get("role") == "img"
    assert root.get("aria-label") == "loss against step"


def test_equal_steps_are_drawn_at_equal_distances_and_higher_values_higher():
    (x0, y0), (x1, y1), (x2, y2) = line(draw([(0, 0.0), (5, 1.0), (10, 2.0)]))
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y1 > y2


def test_a_wide_range_of_positive_values_is_drawn_logarithmically():
    (_, y0), (_, y1), (_, y2) = line(draw([(0, 0.01), (1, 0.1), (2, 1.0)]))
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)


def test_the_line_stays_inside_the_picture():
    for low, high in [(0, 1), (3, 3), (-2, 5), (1e-9, 1e9), (0.97, 0.99), (0, 0)]:
        svg = draw([(1, low), (250, high)])
        assert all(0 <= x <= 420 and 0 <= y <= 230 for x, y in line(svg))
        assert 2 <= len(ticks(svg)) <= 16


def test_a_single_point_is_marked():
    assert "circle" in draw([(7, 0.5)])


def test_values_that_are_not_finite_are_left_out():
    points = [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 2.0)]
    assert len(line(draw(points))) == 2
    assert draw([(0, float("nan"))]) == draw([]) == ""


def test_long_series_are_thinned():
    assert len(line(draw([(step, 1.0 + step) for step in range(10_001)]))) <= 300


def test_a_jagged_series_is_drawn_faint_under_its_running_mean():
    svg = draw([(step, 1.0 + (-1) ** step * 0.5) for step in range(200)])
    faint, smooth = ([y for _, y in line(svg, name)] for name in ("faint", "line"))
    assert max(smooth) - min(smooth) < 0.2 * (max(faint) - min(faint))


def test_a_level_is_a_named_line_across_and_within_the_picture():
    svg = draw([(0, 1.0), (1, 2.0)], level=(8.0, "planned: 8 <"))
    root = ElementTree.fromstring(svg)
    assert "planned: 8 <" in [element.text for element in root.iter("text")]
    assert line(svg)[-1][1] > float(re.search(r'class="level" d="M[\d.]+ ([\d.]+)H', svg)[1]) > 0


def test_an_axis_can_be_made_to_start_at_zero():
    points = [(0, 8.0), (10, 10.0)]
    assert "0" not in ticks(draw(points))[:1]
    assert ticks(draw(points, from_zero=True))[0] == "0"


def test_labels_are_escaped():
    svg = draw([(0, 1), (1, 2)], label='<"&', x_label="<script>")
    assert "<script>" not in svg
    assert ElementTree.fromstring(svg).get("aria-label") == '<"&'


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "0.05"), (250, "250"), (1500, "1,500"), (20_000, "20k"), (3e6, "3M")],
)
def test_ticks_are_short(value, text):
    assert tick_text(value) == text


def test_shares_are_drawn_from_0_to_100_percent_over_the_diagonal():
    names = {"label": "found <at most>", "x_label": "step", "y_label": "loss"}
    svg = rates_chart([(0.0, 0.2), (0.5, 0.75), (1.0, 1.0)], **names)
    (x0, y0), (x1, y1), (x2, y2) = line(svg)
    (left, bottom), (right, top) = line(svg, "faint")
    assert (x0, x2, y2) == (left, right, top)
    assert x1 == pytest.approx((left + right) / 2, abs=0.1)
    assert (bottom - y0) / (bottom - top) == pytest.approx(0.2, abs=0.01)
    assert (bottom - y1) / (bottom - top) == pytest.approx(0.75, abs=0.01)
    assert ticks(svg) == ["0", "25", "50", "75", "100"] * 2
    assert ElementTree.fromstring(svg).get("aria-label") == "found <at most>"
    assert rates_chart([], **names) == ""
