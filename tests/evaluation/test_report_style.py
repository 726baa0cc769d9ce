"""The style sheet: every colour of text on every ground it stands on is readable (WCAG 2.2 AA)."""

import re
from importlib.resources import files

import pytest

CSS = (files("dpdm.evaluation") / "templates" / "report.css").read_text("utf-8")

ON = {
    "--ink": ("--paper", "--card", "--code"),
    "--muted": ("--paper", "--card"),
    "--accent": ("--paper", "--card"),
    "--inside-ink": ("--inside",),
    "--alarm-ink": ("--alarm",),
}
LIGHT, DARK, PRINT = "light", "dark", "print"


def colours(scheme):
    """The variables of ``:root``, the later over the earlier, as a browser takes them."""
    blocks = re.findall(r"(@media [^{]*\{\s*)?:root \{(.*?)\}", CSS, re.DOTALL)
    wanted = {LIGHT: ("",), DARK: ("", "dark"), PRINT: ("", "dark", "print")}[scheme]
    found = {}
    for media, body in blocks:
        if any((not media) if kind == "" else kind in media for kind in wanted):
            found |= dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{3,6});", body))
    return found


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_wcag():
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", [LIGHT, DARK, PRINT])
def test_text_is_readable_on_its_ground(scheme):
    found = colours(scheme)
    ratios = {
        (ink, ground): contrast(found[ink], found[ground])
        for ink, grounds in ON.items()
        for ground in grounds
    }
    assert min(ratios.values()) >= 4.5, ratios


def test_each_scheme_has_colours_of_its_own():
    grounds = [colours(scheme)["--paper"] for scheme in (LIGHT, DARK, PRINT)]
    assert luminance(grounds[1]) < 0.05 < 0.8 < luminance(grounds[0])
    assert grounds[2] == "#fff"


def test_every_colour_is_a_variable_or_a_keyword():
    outside = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-f]{3,8}\b", outside) == []
