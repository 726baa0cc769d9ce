"""The public side of a run: a model that is built from its settings, sampled, saved and loaded."""

from dpdm.release.build import build_denoiser, stand_in_prior
from dpdm.release.files import RELEASE_FILES, find_release, write_release_model
from dpdm.release.model import Model, load
from dpdm.release.precision import autocast_dtype, place
from dpdm.release.trajectory import draw_trajectory

__all__ = [
    "RELEASE_FILES",
    "Model",
    "autocast_dtype",
    "build_denoiser",
    "draw_trajectory",
    "find_release",
    "load",
    "place",
    "stand_in_prior",
    "write_release_model",
]
