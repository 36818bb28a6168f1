# SPDX-License-Identifier: MIT
"""Training of Krakencoders: losses, transforms, splits, schedules and records."""

from .options import TrainingOptions
from .scratch import Scratch
from .trainer import Records, train_krakencoder

__all__ = ["Records", "Scratch", "TrainingOptions", "train_krakencoder"]
