"""The prior: noised class statistics and the mixture of Gaussians fitted to them (DESIGN.md)."""

from dpdm.training.prior.design import PriorDesign, design_prior
from dpdm.training.prior.fit import fit_prior

__all__ = ["PriorDesign", "design_prior", "fit_prior"]
