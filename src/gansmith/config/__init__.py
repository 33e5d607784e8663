"""The configuration of a run: one validated object, merged from preset, file and command line."""

from gansmith.config.fields import images, is_some
from gansmith.config.merge import (
    diff,
    flat,
    from_flat,
    given,
    load,
    parse_overrides,
    preset_names,
    to_yaml,
)
from gansmith.config.schema import Config, describe, fields

__all__ = [
    "Config",
    "describe",
    "diff",
    "fields",
    "flat",
    "from_flat",
    "given",
    "images",
    "is_some",
    "load",
    "parse_overrides",
    "preset_names",
    "to_yaml",
]
