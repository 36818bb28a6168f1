# SPDX-License-Identifier: MIT
"""Files of connectomes of all makes, in and out: a module a format."""
