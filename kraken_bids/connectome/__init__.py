# SPDX-License-Identifier: MIT
"""The connectome recipes: arrays in, arrays out; numpy and scipy only."""
