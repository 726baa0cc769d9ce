"""Diffusion, public side: DM configs, views, bases, objective, samplers, the prior.

Pure functions of what they are given; nothing here knows of data or privacy. In every file of this
room: images are (N, C, H, W) floats in [-1, 1], ``image_shape`` is (C, H, W), ``sigma`` is the (N,)
standard deviation of the noise, ``labels`` is (N,) int64 with -1 for "no label" or None, and a
denoiser is any callable ``denoiser(x, sigma, labels)`` that estimates E[x0 | x].
"""
