# SPDX-License-Identifier: MIT
"""Measured and predicted connectomes from BIDS derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model.krakencoder import Krakencoder

__all__ = ["Krakencoder", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the model when it is asked for: importing the package stays quick."""
    if name == "Krakencoder":
        from .model.krakencoder import Krakencoder

        return Krakencoder
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
