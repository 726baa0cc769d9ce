"""The prior: noised class statistics and the mixture of Gaussians fitted to them (DESIGN.md)."""

from dpdm.training.prior.choice import Chosen, choose
from dpdm.training.prior.design import PriorDesign, design_choice, design_prior
from dpdm.training.prior.fit import fit_prior

__all__ = [
    "Chosen",
    "PriorDesign",
    "choose",
    "design_choice",
    "design_prior",
    "fit_prior",
]
