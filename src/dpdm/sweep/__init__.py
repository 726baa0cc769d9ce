"""Sweeps: one question about settings, asked by many runs, answered by one table and figure."""
