"""What is trained: the DDPM++ U-Net, its moving average, the labeller; and weights on disk."""

from dpdm.networks.ema import EMA
from dpdm.networks.labeller import Labeller
from dpdm.networks.unet import UNet
from dpdm.networks.weights import load_into, load_weights, save_weights

__all__ = ["EMA", "Labeller", "UNet", "load_into", "load_weights", "save_weights"]
