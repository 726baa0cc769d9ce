"""Both reports in headless Chromium: nothing wider than a phone, every picture shown."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from dpdm.evaluation import render_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)

# The report runs no scripts; a page around it measures it in a frame as wide as the screen.
MEASURE = """<!doctype html><iframe width="{width}" height="800" srcdoc="{report}"></iframe>
<pre id="seen"></pre><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  document.getElementById("seen").textContent = JSON.stringify({{
    width: page.documentElement.clientWidth,
    needed: page.documentElement.scrollWidth,
    pictures: page.images.length,
    broken: [...page.images].filter(p => !p.complete || p.naturalWidth == 0).length,
    small: [...page.images].filter(p => p.clientWidth < 100).length,
    requests: performance.getEntriesByType("resource").length,
  }});
}};
</script>"""


def measured(report, width, folder):
    page = folder / "page.html"
    page.write_text(MEASURE.format(width=width, report=html.escape(report)), encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
        page.as_uri(),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return json.loads(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', shown)[1]))


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("private", [True, False], ids=["private", "release"])
def test_the_page_fits_the_screen_and_shows_its_pictures(
    content, comparison, private, width, tmp_path
):
    content = replace(content, evaluation={**content.evaluation, **comparison})
    seen = measured(render_report(content, private=private), width, tmp_path)
    assert seen["needed"] <= seen["width"] <= width
    assert seen["pictures"] >= 10
    assert seen["broken"] == seen["small"] == seen["requests"] == 0
