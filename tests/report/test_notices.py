# SPDX-License-Identifier: MIT
"""What stands on top of a participant's page."""

import numpy as np

from kraken_bids.atlases import load_atlas
from kraken_bids.report.notices import _empty_regions


def test_regions_whose_streamlines_stay_within_them_are_joined_to_none():
    matrix = np.ones((86, 86)) - np.eye(86)
    for region in (3, 40):
        matrix[region], matrix[:, region] = 0, 0
    names = load_atlas("fs86").region_names
    (notice,) = _empty_regions({"SCifod2act_fs86_count": matrix}, "")
    assert "2 regions of fs86 that no streamline joins to another one" in str(notice)
    assert notice.names == (names[3], names[40])
