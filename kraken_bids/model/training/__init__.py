# SPDX-License-Identifier: MIT
"""Training of Krakencoders: losses, transforms, splits, schedules and records."""

from .options import TrainingOptions
from .run import Records
from .scratch import Scratch
from .trainer import train_krakencoder

__all__ = ["Records", "Scratch", "TrainingOptions", "train_krakencoder"]
