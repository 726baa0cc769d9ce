"""What the project says of itself in several places is the same everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import dpdm

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def canonical(requirement: str) -> str:
    """The normalised name in a requirement (PEP 503)."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def test_the_version_is_the_same_everywhere(project: dict[str, Any]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert project["version"] == dpdm.__version__ == citation["version"]


def test_the_changelog_has_the_version() -> None:
    assert f"## {dpdm.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_citation_names_the_paper() -> None:
    (paper,) = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["references"]
    assert paper["title"] == "Differentially Private Diffusion Models"
    assert [author["family-names"] for author in paper["authors"]] == [
        "Dockhorn",
        "Cao",
        "Vahdat",
        "Kreis",
    ]


def test_every_direct_dependency_is_pinned_to_one_version(project: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = [r for group in project["optional-dependencies"].values() for r in group]
    direct = {canonical(r) for r in [*project["dependencies"], *extras]} - {"dpdm"}
    assert direct <= {canonical(name) for name in pins}


def test_torch_is_pinned_to_the_version_it_is_tested_with(project: dict[str, Any]) -> None:
    assert "torch==2.13.0\n" in (ROOT / "constraints.txt").read_text("utf-8")
    assert "torch>=2.11" in project["dependencies"]
