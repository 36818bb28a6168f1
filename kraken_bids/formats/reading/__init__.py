# SPDX-License-Identifier: MIT
"""Files of connectomes, in: opened by kind, read some participants at a time, matched by id."""
