"""An audit as the private report shows it: what an attack found beside what is claimed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpdm.promise.wording import at_least, at_most


@dataclass(frozen=True)
class AuditView:
    """What the template shows of an audit; every entry is text."""

    verdict: str
    alarm: bool
    families: tuple[tuple[str, ...], ...]
    checks: tuple[tuple[str, str, str], ...]
    access: tuple[str, ...]


def audit_view(audit: Mapping[str, Any]) -> AuditView:
    """Prepares the JSON object of ``dpdm privacy audit`` for the template."""
    bound, claim = audit["epsilon_lower_bound"], audit["epsilon_claimed"]
    checks = audit.get("checks", ())
    faults = audit.get("faults")
    if faults is None:  # a file of before they were written
        alarm = bound > claim or any(not check["passed"] for check in checks)
    else:
        alarm = bool(faults)
    verdict = (
        f"The attack shows that epsilon is at least {at_least(bound, 3)} (confidence "
        f"{audit['confidence']:.0%}); claimed is at most {at_most(claim)}, both at delta "
        f"{audit['delta']:g}."
    )
    if alarm:
        verdict += " This contradicts the claim."
    verdict += "".join(f" {fault[:1].upper()}{fault[1:]}." for fault in faults or ())
    return AuditView(
        verdict=verdict,
        alarm=alarm,
        families=tuple(
            (
                str(family["kind"]),
                f"{family['included']} of {family['count']}",
                f"{family['correct']} of {family['guesses']}",
                f"{family['epsilon_lower_bound']:.3g}",
            )
            for family in audit.get("canaries", ())
        ),
        checks=tuple(
            (str(check["name"]), "passed" if check["passed"] else "FAILED", str(check["seen"]))
            for check in checks
        ),
        access=tuple(str(sentence) for sentence in audit.get("access", ())),
    )
