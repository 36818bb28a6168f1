# SPDX-License-Identifier: MIT
"""``kraken-submit``: the jobs of a cohort on a cluster, one array and the group job after it."""
