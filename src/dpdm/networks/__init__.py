"""What is trained and by what: the DDPM++ U-Net, its moving average, the labeller, Adam; and
weights on disk."""

from dpdm.networks.ema import EMA
from dpdm.networks.labeller import Labeller
from dpdm.networks.optimiser import Adam, half_cosine
from dpdm.networks.unet import UNet
from dpdm.networks.weights import load_into, load_weights, save_weights

__all__ = [
    "EMA",
    "Adam",
    "Labeller",
    "UNet",
    "half_cosine",
    "load_into",
    "load_weights",
    "save_weights",
]
