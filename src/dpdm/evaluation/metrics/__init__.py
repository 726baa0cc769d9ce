"""Distances between sets of features: Frechet, kernel, neighbourhoods. Arrays in, numbers out.

Nothing in here knows of images, files or networks.
"""
