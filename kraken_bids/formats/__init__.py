# SPDX-License-Identifier: MIT
"""Files of connectomes of all makes: `inputs` and `outputs` say what readers and writers share."""
