"""The table of ``dpdm evaluate``: classifiers trained on synthetic and on real images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpdm.cli.console import table


def print_accuracies(result: Mapping[str, Any]) -> None:
    """A line for each classifier: synthetic, DP-SGD on real images, their difference."""
    accuracy: Mapping[str, float] = result.get("accuracy", {})
    baseline: Mapping[str, Any] = result.get("baseline", {})
    columns: list[tuple[str, Mapping[str, float], str]] = []
    if accuracy:
        columns += [
            ("synthetic" if baseline else "accuracy", accuracy, ".4f"),
            ("spread", result.get("accuracy_spread", {}), ".4f"),
        ]
    if "accuracy_chosen_on_test" in result:
        optimistic = result["accuracy_chosen_on_test"]
        columns.append(("epoch chosen on the test set (optimistic)", optimistic, ".4f"))
    if baseline:
        columns += [
            (f"DP-SGD on real, epsilon {baseline['epsilon']:g}", baseline["accuracy"], ".4f"),
            ("its spread", baseline.get("accuracy_spread", {}), ".4f"),
            ("difference", baseline["difference"], "+.4f"),
        ]
    shown = [column for column in columns if column[1]]
    if shown:
        table(
            ("classifier", *(title for title, _, _ in shown)),
            [
                (name.upper(), *(f"{v[name]:{form}}" if name in v else "" for _, v, form in shown))
                for name in dict.fromkeys([*accuracy, *baseline.get("accuracy", {})])
            ],
        )
