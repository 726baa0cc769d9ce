"""The audit: attacks on a training that give a lower bound on epsilon, and checks beside them."""

from dpdm.audit.bounds import (
    TradeOff,
    empirical_trade_off,
    many_run_epsilon,
    one_run_epsilon,
    p_value,
)
from dpdm.audit.checks import Check
from dpdm.audit.run import AuditResult, Family, run_audit, stand_in

__all__ = [
    "AuditResult",
    "Check",
    "Family",
    "TradeOff",
    "empirical_trade_off",
    "many_run_epsilon",
    "one_run_epsilon",
    "p_value",
    "run_audit",
    "stand_in",
]
