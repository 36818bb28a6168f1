# SPDX-License-Identifier: MIT
"""What the documentation takes from the code, so that the two cannot disagree."""
