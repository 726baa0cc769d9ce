"""Imports point one way, and starting up is quick: the rules between the rooms of ``dpdm``.

The rules are the contracts of import-linter in pyproject.toml. Each is shown to hold, and to bite.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Runs the contracts on the copy of the package in ``root``."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    return subprocess.run(
        [*command, "--no-cache", "--no-logo"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contracts_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "src" / "dpdm",
        tmp_path / "src" / "dpdm",
        ignore=lambda _, names: [n for n in names if Path(n).suffix not in ("", ".py")],
    )
    return tmp_path


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("diffusion", "privacy"),
        ("diffusion", "training"),
        ("diffusion", "data"),
        ("networks", "privacy"),
        ("networks", "diffusion"),
        ("chain", "privacy"),
        ("privacy", "diffusion"),
        ("privacy", "networks"),
        ("privacy", "data"),
        ("privacy", "config"),
        ("data", "privacy"),
        ("data", "evaluation"),
        ("config", "data"),
        ("release", "data"),
        ("release", "privacy"),
        ("release", "training"),
        ("evaluation", "training"),
        ("training", "evaluation"),
        ("training", "cli"),
        ("pipeline", "cli"),
        ("pipeline", "sweep"),
        ("sweep", "cli"),
    ],
)
def test_an_import_the_wrong_way_is_found(copy: Path, importer: str, imported: str) -> None:
    package = copy / "src" / "dpdm"
    module = package / importer / "__init__.py"
    if not module.parent.is_dir():
        module = package / f"{importer}.py"
    with module.open("a") as file:
        file.write(f"\nimport dpdm.{imported}\n")
    result = lint_imports(copy)
    assert result.returncode == 1
    assert f"dpdm.{importer} -> dpdm.{imported}" in result.stdout


def test_a_module_without_a_place_is_found(copy: Path) -> None:
    (copy / "src" / "dpdm" / "stray.py").write_text("")
    result = lint_imports(copy)
    assert result.returncode == 1
    assert "stray" in result.stdout


@pytest.mark.parametrize("module", ["dpdm", "dpdm.config", "dpdm.errors", "dpdm.cli"])
@pytest.mark.parametrize("heavy", ["torch", "sklearn", "matplotlib"])
def test_importing_does_not_load_what_only_the_work_needs(module: str, heavy: str) -> None:
    code = f"import {module}, sys; sys.exit({heavy!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
