# SPDX-License-Identifier: MIT
"""What is usual of participants that a model has not learnt from, kept in its ``config.json``.

`kraken-model train` takes the measures of `kraken_bids.model.trust` of those who were watched
while it trained: median and robust standard deviation, on the scales of
`kraken_bids.model.verdicts`.
Cohorts of any size, and participants alone, are then judged by these. A merged model keeps them
with the flavors that it takes over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..storage import atomic_path
from .bundle import Bundle
from .bundle_config import TYPICAL_KEY
from .krakencoder import Krakencoder
from .storage import CONFIG_NAME
from .trust import agreement
from .verdicts import FEWEST_JUDGED, RULES, Typical, take_spread

#: Larger than any median or deviation on these scales: what is beyond is damage.
_LARGEST = 50.0


def note_typical(bundle: Bundle, connectomes: Mapping[str, NDArray[np.floating]]) -> Bundle:
    """Take the measures of some participants, and keep what is usual of them in the bundle.

    Parameters
    ----------
    bundle
        Just trained.
    connectomes
        (n, n_edges) by flavor, of participants that it was not trained on. Of fewer than
        `FEWEST_JUDGED` nothing is kept.

    Returns
    -------
    Bundle
        The same, opened again. Weights and their SHA-256 stay as they are.
    """
    n = min(len(edges) for edges in connectomes.values())
    if n < FEWEST_JUDGED:
        return bundle
    seen = Krakencoder(bundle, device="cpu").encode_seen(connectomes)
    agreements = agreement({name: one.latent for name, one in seen.items()}, bundle)
    rows = {name: dict(row) for name, row in bundle.config["flavors"].items()}
    for name, one in seen.items():
        columns = {**one.measures(), "agreement": agreements[name]}
        kept: dict[str, Any] = {"n_participants": n}
        for rule in RULES:
            values = columns.get(rule.measure, np.full(1, np.nan))
            if np.isfinite(values).all():
                kept[rule.measure] = list(take_spread(rule, values))
        rows[name][TYPICAL_KEY] = kept
    config = {**bundle.config, "flavors": rows}
    with atomic_path(bundle.path / CONFIG_NAME) as temporary:
        text = json.dumps(config, indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return replace(bundle, config=config)


def read_typical(bundle: Bundle, flavor: str) -> dict[str, Typical]:
    """Read what is usual by measure; empty where the model says nothing, or no numbers."""
    kept = bundle.row(flavor).get(TYPICAL_KEY)
    if not isinstance(kept, Mapping) or not isinstance(kept.get("n_participants"), int):
        return {}
    n = min(max(kept["n_participants"], 1), 1_000_000)
    found = {}
    for rule in RULES:
        pair = kept.get(rule.measure)
        if isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)):
            found[rule.measure] = Typical(float(pair[0]), float(pair[1]), n)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < _LARGEST
