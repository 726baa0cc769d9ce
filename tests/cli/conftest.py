"""The command line, called in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dpdm.cli import main


@pytest.fixture
def dpdm(capsys) -> Callable[..., tuple[int, str, str]]:
    """``dpdm(*arguments)`` -> exit status, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call
