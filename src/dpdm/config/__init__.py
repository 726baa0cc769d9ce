"""Settings: one frozen tree (``schema``) and the ways in and out of it (``loading``)."""

from dpdm.config.listing import preset_row
from dpdm.config.loading import (
    dotted_keys,
    flatten,
    load_config,
    preset,
    preset_names,
    read_yaml,
    to_yaml,
)
from dpdm.config.schema import Config, Detail, Precision, SamplerSettings

__all__ = [
    "Config",
    "Detail",
    "Precision",
    "SamplerSettings",
    "dotted_keys",
    "flatten",
    "load_config",
    "preset",
    "preset_names",
    "preset_row",
    "read_yaml",
    "to_yaml",
]
