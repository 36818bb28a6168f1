# SPDX-License-Identifier: MIT
"""From the command line to `Settings`, and to TOML and back."""

from .config import apply_config, config_text
from .reading import settings_from
from .values import parse_count

__all__ = ["apply_config", "config_text", "parse_count", "settings_from"]
