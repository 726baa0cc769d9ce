"""``python -m dpdm`` and the ``dpdm`` command: both start here."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line; Ctrl-C while its modules load ends it as Ctrl-C does later."""
    try:
        from dpdm.cli import main as command_line
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    command_line()


if __name__ == "__main__":
    main()
