# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest

from kraken_bids.formats.reading.naming import canonical_flavor, is_latent_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FCcorr_fs86_hpf", "FCcorr_fs86_hpf"),
        ("fccorr_FS86_hpf", "FCcorr_fs86_hpf"),
        ("fs86_hpf_FCcorr", "FCcorr_fs86_hpf"),
        ("[FCcov_fs86_hpf]", "FCcorr_fs86_hpf"),
        ("FCcorr_fs86_hpf_gsr", "FCcorr_fs86_hpfgsr"),
        ("FCcorr_fs86_hpf_nogsr", "FCcorr_fs86_hpf"),
        ("FCpcorr_cocommpsuit439_nofilt", "FCpcorr_coco439_nofilt"),
        ("FCpcorr_fs86_hpfgsr", "FCpcorr_fs86_hpf"),
        ("FCcov_cocommpsuit439_hpfgsr_FC", "FCcorr_coco439_hpfgsr"),
        ("fs86_sdstream_volnorm", "SCsdstream_fs86_volnorm"),
        ("SCifod2act_fs86_sift2count", "SCifod2act_fs86_sift2"),
        ("SCifod2act_fs86_sift2", "SCifod2act_fs86_sift2"),
        ("SCifod2act_fs86_sift2_volnorm_icv", "SCifod2act_fs86_sift2volnormicv"),
        ("SCifod2act_cocoyeo243_volnorm", "SCifod2act_cocoyeo243_volnorm"),
        ("fc_fs86_FCcov_hpf_gsr_993subj.mat", "FCcorr_fs86_hpfgsr"),
        ("SCsdstream_shen268_count_20subj.npz", "SCsdstream_shen268_count"),
        ("FCcorr_mine400_bpf", "FCcorr_mine400_bpf"),
        ("encoded", "encoded"),
        ("[encoded]", "encoded"),
        ("fusionSC", "fusionSC"),
        ("SCifod2act_fs86", None),
        ("FCcorr_fs86", None),
        ("FCcorr_fs86_volnorm", None),
        ("FCcov_coco439_hpf_bpf", None),
        ("FCcorr_fs860_hpf_extra", None),
        ("fs86_shen268_FCcorr_hpf", None),
        ("age", None),
    ],
)
def test_texts_mean_flavors(text, expected):
    assert canonical_flavor(text) == expected


def test_the_models_own_names_come_first():
    known = ["SCifod2act_fs86_sift2count", "FCcov_fs86_hpf_FC", "FCcorr_mine400_hpf"]
    assert canonical_flavor("SCifod2act_fs86_sift2", known) == "SCifod2act_fs86_sift2count"
    assert canonical_flavor("FCcov_fs86_hpf_FC", known) == "FCcov_fs86_hpf_FC"
    assert canonical_flavor("mine400_FCcov_hpf.mat", known) == "FCcorr_mine400_hpf"


def test_names_of_latents_are_told_from_flavors():
    assert is_latent_name("encoded")
    assert is_latent_name("fusion")
    assert not is_latent_name("FCcorr_fs86_hpf")
