# SPDX-License-Identifier: MIT
"""What ``kraken-model evaluate`` writes: metrics, who is told apart from whom, and a figure.

``desc-kraken_metrics.tsv``
    A row a source and target, a column a metric.
``desc-kraken_identification.tsv``
    A row a source, target and participant.
``matrices/<metric>.tsv``
    One metric, sources in rows and targets in columns.
``heatmap.png``
    The metrics that matter most, as pictures of these matrices.

JSON files of the same name describe the columns of the first two, and with them all metrics.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..bids.writers import MISSING, write_json, write_table
from ..errors import ResourceError
from ..model.metrics import METRICS, take_metrics
from ..storage import atomic_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..model.evaluation_run import Comparison
    from ..report.metric_figures import MetricPanel

METRICS_NAME = "desc-kraken_metrics"
IDENTIFICATION_NAME = "desc-kraken_identification"
FIGURE_NAME = "heatmap.png"
MATRICES_NAME = "matrices"

#: Columns of the table of metrics beside those of `METRICS`, with their meaning.
PAIR_COLUMNS: dict[str, str] = {
    "source": "flavor or fusion that was predicted from",
    "target": "flavor that was measured and predicted",
    "n_participants": "participants with both the measured and the predicted connectome; all "
    "values of the row are taken over them",
    "members": "flavors that the source is made of, for this target",
}
CHANCE_COLUMNS: dict[str, str] = {
    "top1_chance": "expectation of top1 for predictions dealt at random",
    "top_n_chance": "expectation of top_n for predictions dealt at random",
    "average_rank_chance": "expectation of average_rank for predictions dealt at random",
    "p_permutation": "share of the random orders of participants whose average_rank is as high; "
    "n/a if none were tried",
}
#: Columns of the table of identification, with their meaning.
IDENTIFICATION_COLUMNS: dict[str, str] = {
    "source": PAIR_COLUMNS["source"],
    "target": PAIR_COLUMNS["target"],
    "participant_id": "participant whose measured connectome is looked at",
    "correlation": "with the own prediction",
    "residual_correlation": "with the own prediction, once the mean is taken from both sides",
    "double_residual_correlation": "with the own prediction, once each side's own mean is taken",
    "rank": "place of the own prediction among all predictions, by correlation with the measured "
    "connectome; 0 is best, ties share the mean of their places",
    "rank_reverse": "place of the own measured connectome among all measured ones, by correlation "
    "with the prediction",
    "residual_rank": "as rank, by residual correlation",
    "best_participant": "participant whose prediction correlates most with the measured "
    "connectome: the same one if identified, also where others share the top",
    "best_correlation": "correlation with that prediction",
}
#: Panels of the figure: metric, title, ends of the colour scale.
PANELS: tuple[tuple[str, str, float, float], ...] = (
    ("top1", "identified at first guess", 0, 1),
    ("top_n", "identified within {n_best} guesses", 0, 1),
    ("average_rank", "average rank (1 is perfect)", 0, 1),
    ("correlation", "correlation", 0, 1),
    ("residual_correlation", "correlation of residuals", -1, 1),
    ("explained_variance", "explained variance", -1, 1),
)


@dataclass(eq=False)
class EvaluationOutput:
    """Gathers comparisons and writes them. Rows of participants go to disk as they come.

    Parameters
    ----------
    out_dir
        Folder of the outputs; files of the same names are replaced once all is computed.
    participants
        Ids, in the order of the rows.
    n_best
        The N of the top N.
    rows
        Of the table of metrics.
    """

    out_dir: Path
    participants: Sequence[str]
    n_best: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    _members: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        try:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            self._temporary = tempfile.TemporaryDirectory(prefix=".evaluate-", dir=self.out_dir)
            self._folder = Path(self._temporary.name)
            self._table: TextIOWrapper = self._file(IDENTIFICATION_NAME, ".tsv").open(
                "w", encoding="utf-8"
            )
        except OSError as error:
            raise ResourceError(
                f"cannot write: {error.strerror}",
                where=str(self.out_dir),
                fix="Give an output folder that you may write to.",
            ) from error
        self._table.write("\t".join(IDENTIFICATION_COLUMNS) + "\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()
        self._temporary.cleanup()

    def _file(self, name: str, extension: str) -> Path:
        return self._folder / f"{name}{extension}"

    def add(self, comparison: Comparison) -> None:
        """Take one source and target that somebody has."""
        agreement = comparison.agreement
        if agreement is None:
            return
        pair = comparison.source, comparison.target
        self._members[pair] = comparison.members
        chances = {
            f"{metric.name}_chance": metric.chance(agreement.n, self.n_best)
            for metric in METRICS
            if metric.chance is not None
        }
        self.rows.append({
            "source": comparison.source,
            "target": comparison.target,
            "n_participants": agreement.n,
            **take_metrics(agreement, n_best=self.n_best),
            **{name: chances[name] for name in CHANCE_COLUMNS if name in chances},
            "p_permutation": agreement.plain.p_permutation,
            "members": ",".join(comparison.members),
        })
        self._add_participants(comparison)

    def _add_participants(self, comparison: Comparison) -> None:
        """Write a row a participant."""
        agreement = comparison.agreement
        assert agreement is not None  # noqa: S101
        plain, rows = agreement.plain, comparison.rows
        numbers = np.column_stack([
            plain.own,
            agreement.residual.own,
            agreement.double_residual.own,
            plain.forward.rank,
            plain.reverse.rank,
            agreement.residual.forward.rank,
            plain.best_correlation,
        ])
        pattern = "\t".join(["%.6g"] * numbers.shape[1])
        ids = [f"sub-{self.participants[row]}" for row in rows]
        lines = []
        for row, (participant, best) in enumerate(zip(ids, plain.best.tolist(), strict=True)):
            *values, last = (pattern % tuple(numbers[row])).replace("nan", MISSING).split("\t")
            match = ids[best] if best >= 0 else MISSING
            cells = [comparison.source, comparison.target, participant, *values, match, last]
            lines.append("\t".join(cells) + "\n")
        self._table.writelines(lines)

    def save(self, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Write all files and put them into place.

        Parameters
        ----------
        facts
            About the run, for the JSON of the metrics.

        Returns
        -------
        list
            Rows of the table of metrics.
        """
        self._table.close()
        sources, targets = self.sources, self.targets
        self.rows.sort(key=lambda r: (sources.index(r["source"]), targets.index(r["target"])))
        columns = [*list(PAIR_COLUMNS)[:3], *(m.name for m in METRICS), *CHANCE_COLUMNS, "members"]
        write_table(
            self._file(METRICS_NAME, ".tsv"),
            columns,
            [[row[column] for column in columns] for row in self.rows],
        )
        write_json(self._file(METRICS_NAME, ".json"), {**self._describe(columns), **facts})
        write_json(self._file(IDENTIFICATION_NAME, ".json"), _descriptions(IDENTIFICATION_COLUMNS))
        for metric in METRICS:
            self._save_matrix(metric.name)
        self._draw()
        for file in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            with atomic_path(self.out_dir / file.relative_to(self._folder)) as place:
                file.replace(place)
        return self.rows

    def _describe(self, columns: Sequence[str]) -> dict[str, Any]:
        meanings = {m.name: m.description.format(n_best=self.n_best) for m in METRICS}
        meanings |= PAIR_COLUMNS | CHANCE_COLUMNS
        return _descriptions({column: meanings[column] for column in columns})

    @property
    def sources(self) -> list[str]:
        """Sources compared, in the order in which they came."""
        return list(dict.fromkeys(row["source"] for row in self.rows))

    @property
    def targets(self) -> list[str]:
        """Targets compared, in the order in which they came."""
        return list(dict.fromkeys(row["target"] for row in self.rows))

    def matrix(self, metric: str) -> NDArray[np.float64]:
        """(n_sources, n_targets), NaN where there is no comparison."""
        sources, targets = self.sources, self.targets
        grid = np.full((len(sources), len(targets)), math.nan)
        for row in self.rows:
            grid[sources.index(row["source"]), targets.index(row["target"])] = row[metric]
        return grid

    def _save_matrix(self, metric: str) -> None:
        """Write a metric, with the mean over the targets that have a value as last column."""
        rows = []
        for source, values in zip(self.sources, self.matrix(metric), strict=True):
            known = values[np.isfinite(values)]
            rows.append([source, *values, known.mean() if known.size else None])
        file = self._folder / MATRICES_NAME / f"{metric}.tsv"
        write_table(file, ["source", *self.targets, "average"], rows)

    def _draw(self) -> None:
        from ..report.canvas import save_png
        from ..report.metric_figures import draw_metrics

        panels = [self._panel(*panel) for panel in PANELS]
        drawing = draw_metrics(panels, self.sources, self.targets, blank=self.repeated())
        save_png(drawing, self._folder / FIGURE_NAME)

    def _panel(self, metric: str, title: str, low: float, high: float) -> MetricPanel:
        from ..report.metric_figures import MetricPanel

        chances = [row.get(f"{metric}_chance", math.nan) for row in self.rows]
        zero = 0.0 if metric == "residual_correlation" else math.nan
        return MetricPanel(
            title.format(n_best=self.n_best),
            self.matrix(metric),
            low=low,
            high=high,
            chance=float(np.mean(chances)) if chances and np.isfinite(chances).all() else zero,
        )

    def repeated(self) -> set[tuple[str, str]]:
        """Pairs of a fusion's variant and a target for which it leaves out nobody."""
        return {
            (source, target)
            for (source, target), members in self._members.items()
            if "." in source and self._members.get((source.rpartition(".")[0], target)) == members
        }


def _descriptions(meanings: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {column: {"Description": meaning} for column, meaning in meanings.items()}
