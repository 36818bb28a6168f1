# SPDX-License-Identifier: MIT
"""Measured and predicted connectomes from BIDS derivatives."""

__version__ = "0.1.0"
