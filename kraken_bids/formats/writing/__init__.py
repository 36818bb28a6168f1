# SPDX-License-Identifier: MIT
"""Predictions, out: a module a format, none of which holds them in memory."""
