# SPDX-License-Identifier: MIT
"""Images and transforms: streaming, resampling of labels, tissues."""
