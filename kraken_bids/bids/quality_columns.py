# SPDX-License-Identifier: MIT
"""What the columns of the tables of quality mean, for their sidecars."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

#: Description and units of quality measures by the pattern of their name; the first that fits.
#: ``{}`` stands for what the asterisk matched.
QUALITY_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("denoised_by", "Who denoised the series before it came here, and how", ""),
    ("origin", "given: series or connectomes were ready-made; else they were measured here", ""),
    ("denoising", "The recipe of the training connectomes, or another strategy", ""),
    ("compcor", "Tissue components: computed (exact) or columns of the confounds table", ""),
    ("gsr_source", "Signal regressed for the gsr flavors", ""),
    ("outliers", "Who said which volumes to leave out: the recipe or fMRIPrep", ""),
    ("high_pass_hz", "Cut-off of the high-pass filter", "Hz"),
    ("high_pass_edge_hz", "Standard deviation of the filter's edge", "Hz"),
    ("min_coverage", "Share of a region's voxels with signal that it needs to count as there", ""),
    ("pcorr_dof_per_region_*", "Degrees of freedom for each region, {}: 2 or more are good", ""),
    ("n_volumes", "Volumes of the series", ""),
    ("repetition_time_s", "Time between volumes", "s"),
    ("n_outliers", "Volumes left out: motion, global signal, not yet steady", ""),
    ("percent_outliers", "Share of volumes left out", "percent"),
    ("n_kept", "Volumes that correlations rest on", ""),
    ("kept_minutes", "Time that correlations rest on", "min"),
    ("n_runs", "Runs combined", ""),
    ("fd_mean_mm", "Mean framewise displacement (Power)", "mm"),
    ("fd_max_mm", "Largest framewise displacement", "mm"),
    ("percent_fd_above_*", "Share of volumes with framewise displacement above {}", "percent"),
    ("composite_motion_mean_mm", "Mean displacement of a brain-sized box between volumes", "mm"),
    ("composite_motion_max_mm", "Largest displacement of a brain-sized box between volumes", "mm"),
    ("percent_composite_motion_above_*", "Share of volumes with such a displacement above {}",
     "percent"),
    ("dvars_median", "Median DVARS before denoising", "1/1000 of the median signal"),
    ("dvars_max", "Largest DVARS before denoising", "1/1000 of the median signal"),
    ("std_dvars_median", "Median standardised DVARS of the confounds table; noise alone: 1", ""),
    ("std_dvars_max", "Largest standardised DVARS, from the confounds table", ""),
    ("tsnr_median", "Median over regions of the temporal signal-to-noise ratio", ""),
    ("gcor_*", "Global correlation, {}: mean over all pairs of regions", ""),
    ("percent_variance_removed_*", "Median share of the regions' variance removed, {}", "percent"),
    ("n_regressors_*", "Nuisance regressors, {}", ""),
    ("dof_*", "Degrees of freedom left, {}", ""),
    ("n_voxels_*", "Voxels of the tissue {}", ""),
    ("component_gap_*", "Gap of variance after the fourth component, {}; near 0: arbitrary", ""),
    ("has_onset_regressor", "1 if the transient at the onset of the scan was regressed", ""),
    ("is_eroded_*", "1 if the mask of {} was eroded", ""),
    ("mean_*", "Mean edge of {}", ""),
    ("sd_*", "Standard deviation of the edges of {}", ""),
    ("min_eigenvalue_*", "Smallest eigenvalue of the correlation matrix, {}", ""),
    ("min_*", "Smallest edge of {}", ""),
    ("max_*", "Largest edge of {}", ""),
    ("homotopic_*", "Mean edge between the same regions of both hemispheres, {}", ""),
    ("n_missing_regions_*", "Regions without signal, {}", ""),
    ("n_missing_edges_*", "Edges of missing regions, {}", ""),
    ("coverage_median_*", "Median share of the regions' voxels that have signal, {}", ""),
    ("coverage_min_*", "Least share of a region's voxels that has signal, {}", ""),
    ("n_low_coverage_regions_*", "Regions with signal in less than half of their voxels, {}", ""),
    ("training_mean_r_*", "Correlation with the model's training mean, {}; n/a without model", ""),
    ("pcorr_withheld_*", "1: fewer degrees of freedom than regions, none is made, {}", ""),
    ("pcorr_lambda_source_*", "Where the regularisation comes from, {}", ""),
    ("pcorr_lambda_*", "Regularisation of the partial correlation, {}", ""),
    ("pcorr_condition_*", "Condition number of the regularised correlation matrix, {}", ""),
    ("assignment_radius_mm", "Radius of the search for a region around streamline ends", "mm"),
    ("n_b0", "Volumes without diffusion weighting", ""),
    ("shells", "b-values of the shells", "s/mm2"),
    ("directions", "Directions of each shell", ""),
    ("voxel_mm", "Voxel size of the series", "mm"),
    ("bvec_gain", "Fibre neighbours connected with the best axes of b-vectors, over as given", ""),
    ("fods_bias", "How FODs were made otherwise than those of the training connectomes", ""),
    ("*_five_tissue", "What the five-tissue image that constrained {} was made from", ""),
    ("*_source", "Whether the tractogram of {} was tracked or given", ""),
    ("*_n_streamlines_wanted", "Streamlines of {} asked for", ""),
    ("*_n_streamlines", "Streamlines of {} used", ""),
    ("*_n_seeds", "Seeds that tracking of {} started from", ""),
    ("*_accepted_fraction", "Streamlines selected for each seed of {}", ""),
    ("*_sift2_mu", "SIFT2's factor from weights of {} to fibre density", ""),
    ("*_sift2_mean_weight", "Mean SIFT2 weight of streamlines, {}", ""),
    ("*_within_region_fraction", "Share of streamlines with both ends in one region, {}", ""),
    ("*_unassigned_fraction", "Share of streamlines with an end in no region, {}", ""),
    ("*_assigned_fraction", "Share of streamlines that join two regions, {}", ""),
    ("*_density", "Share of pairs of regions that a streamline joins, {}", ""),
    ("*_level", "Sum of the volume-normalised connectome, {}", ""),
    ("*_n_idle_regions", "Regions that no streamline joins to another, {}", ""),
    ("*_median_length_mm", "Median length of streamlines, {}", "mm"),
    *((f"*_p{percent}_length_mm", f"{percent} % of streamlines are shorter, {{}}", "mm")
      for percent in (5, 25, 75, 95)),
    ("*_mean_length_mm", "Mean length of streamlines, {}", "mm"),
    ("*_bias", "How {} was made otherwise than the training connectomes", ""),
)  # fmt: skip


#: What the sidecar's ``Regions`` holds of each region (a list in the order of the atlas) or
#: names, by the pattern of the key.
REGION_MEASURES: tuple[tuple[str, str], ...] = (
    ("coverage", "Share of the region's voxels that have signal (dwi: that are in the mask)"),
    ("n_voxels", "Voxels of the region on the grid of the series"),
    ("tsnr", "Temporal mean over standard deviation, averaged over the region's voxels"),
    (
        "percent_variance_removed_*",
        "Percentage of the region's variance that denoising removed, {}",
    ),
    ("missing", "Names of regions without row and column: n/a in every table"),
    ("low_coverage", "Names of further regions with less than half of their voxels"),
    ("volume_mm3", "Volume of the region in mm3"),
    ("present", "Whether the region has a voxel"),
    ("volume_set_to_one_voxel", "Names of regions whose volume was too small to be measured"),
    ("without_streamlines", "Names of regions that no streamline joins to another, by algorithm"),
    ("streamline_ends", "Ends of streamlines in the region, by algorithm"),
)


def describe_region_measures(regions: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What the entries of ``Regions`` mean, for those that are in the table.

    Parameters
    ----------
    regions
        By atlas, measures by name.
    """
    described = {}
    for name in dict.fromkeys(name for entry in regions.values() for name in entry):
        for pattern, words in REGION_MEASURES:
            if fnmatch.fnmatchcase(name, pattern):
                described[name] = words.format(name.removeprefix(pattern.rstrip("*")))
    return described


def describe_column(name: str) -> dict[str, str]:
    """Description and units of a quality measure; its name in words if it is not in the table."""
    for pattern, description, units in QUALITY_COLUMNS:
        if fnmatch.fnmatchcase(name, pattern):
            prefix, _, suffix = pattern.partition("*")
            rest = name.removeprefix(prefix).removesuffix(suffix)
            described = {"Description": description.format(rest)}
            return {**described, "Units": units} if units else described
    return {"Description": name.replace("_", " ")}
