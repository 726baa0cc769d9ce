"""Readers: each turns one layout on disk into a Collection, and knows nothing of the others."""
