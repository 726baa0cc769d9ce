"""``dpdm privacy``: plan a promise, state one, read its ledger."""

from __future__ import annotations

import typer

from dpdm.cli.privacy import audit, ledger, plan, statement

app = typer.Typer(
    help="Plan, state and check the promise.", no_args_is_help=True, rich_markup_mode=None
)
plan.register(app)
statement.register(app)
ledger.register(app)
audit.register(app)
