"""The report: one self-contained HTML page about a run, with a private and a release version.

The release version is rendered from ``release_part`` of the content, which copies only what the
guarantee covers. What is private never reaches the template, whatever the template says.
"""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dpdm.evaluation.content import ReportContent
from dpdm.evaluation.page import build_page
from dpdm.evaluation.page_statement import MECHANISM_KEYS, STATEMENT_KEYS


def release_part(content: ReportContent) -> ReportContent:
    """The part of the content that the guarantee covers: a copy by name of what is allowed.

    A field, or a key of the statement, that is not named here stays behind.
    """
    statement: dict[str, Any] = {
        key: value for key, value in content.statement.items() if key in STATEMENT_KEYS
    }
    if "mechanisms" in statement:
        statement["mechanisms"] = [
            {key: value for key, value in mechanism.items() if key in MECHANISM_KEYS}
            for mechanism in statement["mechanisms"]
        ]
    return ReportContent(
        title=content.title,
        preset=content.preset,
        statement=statement,
        images=content.images,
        labels=content.labels,
        classes=content.classes,
        sample_count=content.sample_count,
        trajectory=content.trajectory,
    )


def render_report(content: ReportContent, *, private: bool) -> str:
    """The report as one HTML page that loads nothing: styles, pictures and charts are inside it.

    private: False gives the version for ``release/``, made from ``release_part`` alone; True gives
    the whole, under a banner that it is not covered by the guarantee.
    Raises RequestError where there are no samples to show.
    """
    environment = Environment(
        loader=PackageLoader("dpdm.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = build_page(content if private else release_part(content), private=private)
    return environment.get_template("report.html.j2").render(page=page)
