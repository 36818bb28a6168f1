# SPDX-License-Identifier: MIT
"""Nipype graphs; imported as ``kraken_bids.workflows``."""
