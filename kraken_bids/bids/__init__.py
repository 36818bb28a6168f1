# SPDX-License-Identifier: MIT
"""BIDS: which files are there, what outputs are called, how they are written."""
