# SPDX-License-Identifier: MIT
"""Thin Nipype interfaces over the pure functions of the domain packages."""
