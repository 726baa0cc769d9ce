"""``python -m dpdm`` and the ``dpdm`` command are the same program."""

from dpdm.cli import main

if __name__ == "__main__":
    main()
