"""The trained part of the denoiser: the DDPM++ U-Net, its moving average, its weights on disk."""

from dpdm.networks.ema import EMA
from dpdm.networks.unet import UNet
from dpdm.networks.weights import load_into, load_weights, save_weights

__all__ = ["EMA", "UNet", "load_into", "load_weights", "save_weights"]
