"""How long work tells how far it is."""

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int | None], None]
"""Called with (what is being done, units done, units in all or None where nobody knows)."""
