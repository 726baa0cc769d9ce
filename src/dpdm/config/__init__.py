"""Settings: one frozen tree (``schema``) and the ways in and out of it (``loading``)."""

from dpdm.config.loading import (
    dotted_keys,
    flatten,
    load_config,
    preset,
    preset_names,
    to_yaml,
)
from dpdm.config.schema import Config, SamplerSettings

__all__ = [
    "Config",
    "SamplerSettings",
    "dotted_keys",
    "flatten",
    "load_config",
    "preset",
    "preset_names",
    "to_yaml",
]
