# SPDX-License-Identifier: MIT
"""``kraken-model``: the model on its own, on files of connectomes. A module a subcommand."""
