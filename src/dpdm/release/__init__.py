"""The public side of a run: a model that is built from its settings, sampled, saved and loaded."""
