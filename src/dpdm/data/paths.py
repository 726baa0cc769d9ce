"""Paths as people type them."""

import os
from pathlib import Path


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path with ``~`` expanded; an unknown ``~name`` stays as it is, and is then not found."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises instead
