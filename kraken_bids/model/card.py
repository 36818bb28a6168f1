# SPDX-License-Identifier: MIT
"""Model cards: what a model is, what it is for, where it comes from and on what terms.

A card is written from what is recorded of a model and from nothing else. What is known of the
published files is said where a model was made of them, which their SHA-256 shows; of any other
model it is said what is not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__

if TYPE_CHECKING:
    from ..published import Publication, PublishedModel

CARD_NAME = "README.md"
#: A card with this line is ours to replace; without it, somebody has written their own.
MARKER = "<!-- written by kraken-model: take this line out to keep a text of your own -->"

_HCP_TERMS = (
    "https://www.humanconnectome.org/study/hcp-young-adult/document/"
    "wu-minn-hcp-consortium-open-access-data-use-terms"
)

_OWN_TERMS = """\
- None is recorded. Whoever trained the model decides, within the terms of the connectomes that it
  was trained on: means, components and weights are statistics of these participants.
- No connectome and no identifier of any participant is in this folder."""

_NOT_FOR = """\
- Diagnosis, treatment or any decision about a single person: it is a tool of research.
- Connectomes of another atlas, another order of regions or another processing than listed: they
  are taken without complaint where the size agrees, and what comes out means nothing.
- Populations and scanners unlike those of training, unless the connectomes are adapted first and
  the predictions are checked against measured ones."""


def published_sources(config: Mapping[str, Any]) -> list[PublishedModel]:
    """Find the published models whose files a model was made of, by their SHA-256.

    Parameters
    ----------
    config
        A bundle's or a projection's ``config.json``.
    """
    from ..published import published_models

    found = {source["sha256"] for source in sources_of(config.get("provenance", {}))}
    return [
        model
        for model in published_models().values()
        if found & {file.sha256 for file in model.files}
    ]


def _published_terms(publication: Publication) -> str:
    return f"""\
- Licence: {publication.license}
- Terms: {publication.terms}
- The HCP's Open Access Data Use Terms ({_HCP_TERMS})
  let derived data be passed on under these same terms only, ask to acknowledge the HCP wherever
  results that rest on them are shown, and forbid attempts to identify participants. Whether
  statistics of a group such as these are derived data is not decided here; to keep to the terms is
  the safe reading.
- No connectome and no identifier of any participant is in this folder: means and components are
  statistics of a group."""


def sources_of(provenance: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
    """Give every source file of a model and of the models that it was merged of, once."""
    told = set()
    for part in (provenance, *provenance.get("models", ())):
        inner = part.get("provenance", {}) if part is not provenance else part
        rows = inner.get("sources", ()) if part is provenance else sources_of(inner)
        for row in rows:
            if (row["file"], row["sha256"]) not in told:
                told.add((row["file"], row["sha256"]))
                yield row


def is_written_by_hand(file: Path) -> bool:
    """Say whether there is a text that is not ours to replace."""
    return file.is_file() and MARKER not in file.read_text("utf-8", errors="replace")


def bundle_card(config: Mapping[str, Any]) -> str:
    """Write the card of a bundle.

    Parameters
    ----------
    config
        Contents of its ``config.json``.
    """
    rows = config["flavors"]
    first, last = next(iter(rows)), list(rows)[-1]
    return _card(
        config["name"],
        published=bool(published_sources(config)),
        sections={
            "Description": f"""\
A Krakencoder: for each of {len(rows)} flavors of connectomes an encoder into one latent space of
{config["latent_size"]} values{_normalised(config)}, and a decoder out of it. A connectome of one
flavor is translated to any other by encoding and decoding; several are fused by averaging their
latents. A connectome is its upper triangle without the diagonal, row by row.

{_flavor_table(rows)}""",
            "Intended use": """\
Research: predicting connectomes of flavors that were not measured from those that were, and
comparing participants by their latents, whatever flavor was measured.""",
            "Out of scope": _NOT_FOR,
            "Usage": f"""\
```bash
kraken-model predict --model . --input {first}=connectomes.npy --output predicted.npz
```

```python
from kraken_bids import Krakencoder

model = Krakencoder.from_pretrained(".")
latents = model.encode({{"{first}": edges}})  # edges: (participants, {rows[first]["n_edges"]})
predicted = model.decode(latents["{first}"], ["{last}"])
```

Arrays are in `model.safetensors` under `encoder.<flavor>.<layer>.weight` and `.bias`,
`decoder.<flavor>.<layer>.weight` and `.bias`, and `transform.<flavor>.<parameter>`, all float32;
`config.json` says which there are. Nothing in this folder is ever executed.""",
            "Training": _training(config.get("provenance", {})),
            "Provenance": _provenance(config),
        },
    )


def projection_card(config: Mapping[str, Any]) -> str:
    """Write the card of a single flavor's projection.

    Parameters
    ----------
    config
        Contents of its ``config.json``.
    """
    flavor, k, n = config["flavor"], config["n_components"], config["n_features_in"]
    paired = config.get("pairs_with")
    pair = (
        f"\n\nIts scores are what the encoder of the model `{paired}` takes and what its decoder "
        "gives."
        if paired
        else ""
    )
    kept = config.get("explained_variance")
    fitted = config.get("n_participants")
    return _card(
        config["name"],
        published=bool(published_sources(config)),
        sections={
            "Description": f"""\
The projection of connectomes of flavor `{flavor}` ({n} edges) on {k} principal components, and
back. {_sentence("It keeps", f"{kept:.1%}" if kept else "", "of the training data's variance.")}
Scores are divided by their Frobenius norm in training (`input_scale`) and multiplied by
`output_scale`, so that flavors have one scale. A connectome is its upper triangle without the
diagonal, row by row.{pair}""",
            "Intended use": """\
Research: the input and output stage of a Krakencoder, and a compact description of connectomes
on its own.""",
            "Out of scope": _NOT_FOR,
            "Usage": f"""\
```python
from kraken_bids import PCAProjection

projection = PCAProjection.from_pretrained(".")
scores = projection.transform(edges)  # (participants, {n}) to (participants, {k})
edges = projection.inverse_transform(scores)
```

The arrays are float32 and plainly named: `mean` ({n},), `components` ({k}, {n}), `input_scale`
(1,), `output_scale` (1,). Without this package, with NumPy, PyTorch or JAX:

```python
from safetensors.numpy import load_file  # or safetensors.torch, safetensors.flax

p = load_file("model.safetensors")
scores = p["output_scale"] * (((edges - p["mean"]) @ p["components"].T) / p["input_scale"])
edges = ((scores / p["output_scale"]) * p["input_scale"]) @ p["components"] + p["mean"]
```""",
            "Training": (
                f"Fitted on {fitted} participants."
                if fitted
                else "How many participants it was fitted on is not recorded."
            ),
            "Provenance": _provenance(config),
        },
    )


def _card(name: str, *, published: bool, sections: Mapping[str, str]) -> str:
    """Put the sections of a card together."""
    from ..published import publication

    source = publication()
    authors = ", ".join(source.authors)
    who = (
        f"{authors}."
        if published
        else f"Who trained the model is not recorded here. The method is that of {authors}."
    )
    every = {
        **sections,
        "Authors": who,
        "Citation": source.citation,
        "Licence and effective terms": _published_terms(source) if published else _OWN_TERMS,
    }
    head = (
        "---\nlibrary_name: kraken-bids\ntags: [connectome, neuroimaging, krakencoder]\n---\n"
        f"{MARKER}\n\n# {name}\n"
    )
    return head + "".join(f"\n## {title}\n\n{text}\n" for title, text in every.items())


def _sentence(start: str, value: str, end: str) -> str:
    """Give a sentence around a value, or nothing where the value is not known."""
    return f"{start} {value} {end}" if value else ""


def is_normalised(config: Mapping[str, Any]) -> bool | None:
    """Say whether latents of a bundle have length 1; None if some have and some have not."""
    found = {
        "normalize" in row["encoder"][-1]["activations"] for row in config["flavors"].values()
    }
    return found.pop() if len(found) == 1 else None


def _normalised(config: Mapping[str, Any]) -> str:
    return " (brought to length 1)" if is_normalised(config) else ""


def _flavor_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "| flavor | edges | features | transform | variance kept | fitted on |",
        "|---|--:|--:|---|--:|--:|",
    ]
    for flavor, row in rows.items():
        kept, fitted = row.get("explained_variance"), row.get("n_participants")
        lines.append(
            f"| `{flavor}` | {row['n_edges']} | {row['n_features']} | {row['transform']} | "
            f"{'' if kept is None else f'{kept:.1%}'} | {fitted or ''} |"
        )
    return "\n".join(lines)


def _training(provenance: Mapping[str, Any]) -> str:
    """List the plain facts on training."""
    if "models" in provenance:
        names = [f"`{model['name']}`" for model in provenance["models"]]
        return f"Not trained as a whole: merged of {', '.join(names)}, whose weights it holds."
    facts = {
        key: value
        for key, value in provenance.items()
        if key not in {"sources", "checkpoints", "explained_variance", "versions"}
    }
    for name, row in provenance.get("checkpoints", {}).items():
        facts[name] = {**row, **row.get("training", {}), "training": None}
    lines = []
    for key, value in facts.items():
        text = _plain(value)
        if text:
            lines.append(f"- {key}: {text}")
    return "\n".join(lines) or "Nothing is recorded."


def _plain(value: object) -> str:
    """Write a value of a provenance for people; empty where it says nothing."""
    if isinstance(value, Mapping):
        inner = ((name, _plain(part)) for name, part in value.items())
        return ", ".join(f"{name} {text}" for name, text in inner if text)
    if isinstance(value, list | tuple):
        return " ".join(_plain(part) for part in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def _provenance(config: Mapping[str, Any]) -> str:
    """List files with their SHA-256."""
    lines = [f"- made by kraken-bids {__version__}"]
    models: Sequence[Mapping[str, Any]] = config.get("provenance", {}).get("models", ())
    lines += [f"- model `{row['name']}`, SHA-256 `{row['sha256']}`" for row in models]
    lines += [
        f"- source `{row['file']}`, SHA-256 `{row['sha256']}`"
        for row in sources_of(config.get("provenance", {}))
    ]
    lines.append(f"- `{config['weights']['file']}`, SHA-256 `{config['weights']['sha256']}`")
    return "\n".join(lines)
