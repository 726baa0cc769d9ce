"""Small image sets on disk, and the real ones where they are."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image


@pytest.fixture(autouse=True)
def _no_data_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees this machine's data sets or cache unless it asks for them."""
    monkeypatch.delenv("DPDM_DATA", raising=False)
    monkeypatch.setenv("DPDM_CACHE", str(tmp_path / "no-cache"))


@pytest.fixture
def png() -> Callable[[NDArray[np.uint8]], bytes]:
    """Encoder of (H, W) or (H, W, C) uint8 pixels."""

    def encode(pixels: NDArray[np.uint8]) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return encode


@pytest.fixture
def grey(png: Callable[[NDArray[np.uint8]], bytes]) -> Callable[..., bytes]:
    """A one-colour grey PNG of a given level and size."""
    return lambda level=0, height=4, width=4: png(np.full((height, width), level, np.uint8))


@pytest.fixture
def make_files(tmp_path: Path) -> Callable[[dict[str, bytes | str]], Path]:
    """A folder with the given files: relative path to content."""

    def make(files: dict[str, bytes | str], name: str = "set") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for file, content in files.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return make
