"""Solves the noise of every preset anew, for `dpdm presets`: `src/dpdm/presets/noise.json`.

python benchmarks/preset_noise.py           # after a preset was changed; half a minute
"""

from __future__ import annotations

import json

from common import ROOT

from dpdm.config import preset_names
from dpdm.config.listing import NOISE_FILE
from dpdm.training.forecast import preset_noise


def main() -> None:
    """Writes the file."""
    solved = {name: preset_noise(name) for name in preset_names()}
    path = ROOT / "src" / "dpdm" / "presets" / NOISE_FILE
    path.write_text(json.dumps(solved, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
