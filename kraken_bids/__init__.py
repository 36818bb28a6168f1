# SPDX-License-Identifier: MIT
"""Measured and predicted connectomes from BIDS derivatives."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model.krakencoder import Krakencoder
    from .model.projection import PCAProjection

__all__ = ["Krakencoder", "PCAProjection", "__version__"]

__version__ = "0.1.0"


#: What is loaded when it is asked for, and from where: importing the package stays quick.
_HOMES = {"Krakencoder": ".model.krakencoder", "PCAProjection": ".model.projection"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
