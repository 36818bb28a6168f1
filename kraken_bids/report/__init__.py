# SPDX-License-Identifier: MIT
"""Figures and pages: what a person sees of the results; no number is computed anew for them."""
