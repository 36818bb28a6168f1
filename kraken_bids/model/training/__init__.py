# SPDX-License-Identifier: MIT
"""Training of Krakencoders: losses, transforms, splits, schedules and records."""

from .options import TrainingOptions
from .trainer import Records, train_krakencoder

__all__ = ["Records", "TrainingOptions", "train_krakencoder"]
