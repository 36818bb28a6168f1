# SPDX-License-Identifier: MIT
"""A simulated data set as fMRIPrep and QSIPrep would have written it, and a model for it."""
