"""Shared by all tests: examples of hypothesis are never failed for the time they take."""

from hypothesis import settings

settings.register_profile("dpdm", deadline=None)
settings.load_profile("dpdm")
