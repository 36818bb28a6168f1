# SPDX-License-Identifier: MIT
"""``python -m kraken_bids.submit`` is ``kraken-submit``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
