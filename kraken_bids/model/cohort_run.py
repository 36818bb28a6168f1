# SPDX-License-Identifier: MIT
"""A cohort through the model: encoded flavor by flavor, decoded target by target.

The weights of two flavors are in memory at a time, and no more of the connectomes than some
participants; what stays are the latents.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.outputs import Latents, PredictionWriter
from .cohort_fit import SiteAdaptations
from .cohort_reading import CohortReader
from .connectome_rows import batch_rows
from .devices import Device
from .fusion import PlannedSource, mean_of_present
from .krakencoder import Krakencoder
from .loaded_flavor import LoadedFlavor, load_flavor

#: Flavors encoded, or blocks decoded, at a time: more would take more memory. Where there are
#: more cores, each of these uses several.
N_THREADS = 2
#: Told how far a run is: step, how much is done, how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class CohortLatents:
    """Latents of a cohort, where the model computes.

    Parameters
    ----------
    participants
        (n,) ids.
    latents
        (n, latent_size) by flavor or name of latents, the device's arrays; NaN for participants
        without.
    present
        (n,) by the same names: who has them.
    """

    participants: tuple[str, ...]
    latents: Mapping[str, Any]
    present: Mapping[str, NDArray[np.bool_]]

    def n_inputs(self, members: Iterable[str]) -> NDArray[np.int64]:
        """(n,), how many of some members each participant has."""
        total = np.zeros(len(self.participants), dtype=np.int64)
        for member in members:
            total += self.present[member]
        return total


def encode_cohort(
    model: Krakencoder,
    reader: CohortReader,
    *,
    latents: Mapping[str, NDArray[np.float32]] | None = None,
    n_threads: int = N_THREADS,
    progress: Progress = lambda _step, _done, _all: None,
) -> CohortLatents:
    """Encode everything that a reader gives.

    Parameters
    ----------
    model
        The model; its flavors are loaded for the time that they are needed.
    reader
        The cohort.
    latents
        (n, latent_size) by name: what comes as latents already.
    n_threads
        Flavors read and encoded at a time.
    progress
        Told after each flavor.

    Raises
    ------
    InputError
        If a file cannot be read as connectomes.
    ModelError
        If a flavor cannot be adapted.
    """
    device, stop = model.open_device, threading.Event()
    # the longest first, so that the threads end together
    order = sorted(reader.flavors, key=lambda flavor: -model.bundle.n_edges(flavor))
    with ThreadPoolExecutor(n_threads, "encode") as executor:
        futures = {
            flavor: executor.submit(_encode_flavor, model, reader, flavor, stop)
            for flavor in order
        }
        try:
            for n_done, future in enumerate(as_completed(futures.values()), 1):
                future.result()
                progress("encoded", n_done, len(order))
        except BaseException:
            stop.set()  # whatever went wrong: the other threads need not go on
            for future in futures.values():
                future.cancel()
            raise
    encoded = {flavor: futures[flavor].result() for flavor in reader.flavors}
    for name, values in (latents or {}).items():
        encoded[name] = device.put(np.array(values, dtype=np.float32))
    present = {name: _is_present(device.get(values)) for name, values in encoded.items()}
    return CohortLatents(reader.participants, encoded, present)


def _is_present(latent: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(n,), rows without NaN."""
    present: NDArray[np.bool_] = np.asarray(np.isfinite(latent).all(axis=1))
    return present


def _encode_flavor(
    model: Krakencoder, reader: CohortReader, flavor: str, stop: threading.Event
) -> Any:
    """Latents of a flavor, on the device."""
    device = model.open_device
    loaded = load_flavor(model.bundle, flavor, device)
    empty = np.full((len(reader.participants), model.latent_size), np.nan, dtype=np.float32)
    with device.computing():
        encoded = device.put(empty)
        for start, rows in reader.rows(flavor):
            encoded[start : start + len(rows)] = loaded.encode(device.put(rows))
            if stop.is_set():
                break
    return encoded


def source_latents(model: Krakencoder, cohort: CohortLatents, source: PlannedSource) -> Latents:
    """Latents of a source as they are written: (n, latent_size), fused where it is a fusion."""
    device = model.open_device
    with device.computing():
        values = _fused(cohort, source, slice(None), lambda latent, _member: latent)
    return Latents(source.name, device.get(values), cohort.n_inputs(source.members))


def _fused(
    cohort: CohortLatents,
    source: PlannedSource,
    rows: slice,
    mapped: Callable[[Any, str], Any],
) -> Any:
    """Mean of a source's members, (k, latent_size); a flavor's or given latent as it is."""
    members = [mapped(cohort.latents[member][rows], member) for member in source.members]
    if len(members) == 1 and source.name == source.members[0]:
        return members[0]
    return mean_of_present(members, normalize=source.normalize)


def decode_cohort(
    model: Krakencoder,
    cohort: CohortLatents,
    plan: Mapping[str, Sequence[PlannedSource]],
    writer: PredictionWriter,
    *,
    scale: SiteAdaptations | None = None,
    n_threads: int = N_THREADS,
    progress: Progress = lambda _step, _done, _all: None,
) -> None:
    """Predict, and hand every prediction to a writer, target by target.

    Parameters
    ----------
    model
        The model.
    cohort
        Latents of all members of the plan's sources.
    plan
        Sources by target: see `fusion.plan_predictions`.
    writer
        Asks each prediction for rows or columns, and puts them away.
    scale
        Brings predictions back to the scale of the inputs; None leaves that of the training data.
    n_threads
        Blocks decoded at a time, while others are written.
    progress
        Told after each target.
    """
    with ExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(n_threads, "decode"))
        targets = [
            _Target(model, cohort, target, tuple(sources), scale)
            for target, sources in plan.items()
        ]
        blocks = _Blocks(targets, executor, n_ahead=n_threads)
        stack.callback(blocks.stop)
        for number, target in enumerate(targets):
            for position in range(len(target.sources)):
                writer.add_connectomes(DecodedConnectomes(blocks, number, position))
            blocks.finish(number)
            progress("predicted", number + 1, len(targets))


class _Target:
    """All sources' predictions of one flavor: one long table, sources one below the other.

    Decoding a few rows takes as long as reading the weights. So rows are decoded in blocks, and a
    block goes on into the next source where one has few participants.
    """

    def __init__(
        self,
        model: Krakencoder,
        cohort: CohortLatents,
        flavor: str,
        sources: tuple[PlannedSource, ...],
        scale: SiteAdaptations | None,
    ) -> None:
        self.model, self.cohort, self.flavor, self.sources = model, cohort, flavor, sources
        self.scale = scale
        self.device: Device = model.open_device
        self.n = len(cohort.participants)
        self.n_edges = model.bundle.n_edges(flavor)
        self.block_rows = batch_rows(self.n_edges)
        self.n_blocks = -(-self.n * len(sources) // self.block_rows)

    @cached_property
    def loaded(self) -> LoadedFlavor:
        """The weights, from when they are first used until the target is finished."""
        return load_flavor(self.model.bundle, self.flavor, self.device)

    def features(self, position: int, rows: slice) -> Any:
        """What the decoder gives of some participants of a source, on the device."""

        def mapped(latent: Any, member: str) -> Any:
            return self.model.map_group(latent, member, self.flavor)

        return self.loaded.decoder(_fused(self.cohort, self.sources[position], rows, mapped))

    def compute(self, block: int) -> NDArray[np.float32]:
        """Rows of a block of the long table."""
        first = block * self.block_rows
        last = min(first + self.block_rows, self.n * len(self.sources))
        pieces, position = [], first // self.n
        while position * self.n < last:
            start = max(first - position * self.n, 0)
            pieces.append((position, start, min(last - position * self.n, self.n)))
            position += 1
        with self.device.computing():
            features = [self.features(k, slice(start, stop)) for k, start, stop in pieces]
            edges = self.device.get(self.loaded.transform.inverse(_stacked(features)))
        if self.scale is None or not self.scale.fits:
            return edges
        original, row = np.empty_like(edges), 0
        for _, start, stop in pieces:
            part = edges[row : row + stop - start]
            original[row : row + stop - start] = self.scale.inverse(self.flavor, part, start)
            row += stop - start
        return original


def _stacked(pieces: Sequence[Any]) -> Any:
    if len(pieces) == 1:
        return pieces[0]
    if isinstance(pieces[0], np.ndarray):
        return np.concatenate(pieces)
    import torch

    return torch.cat(list(pieces))


class _Blocks:
    """Blocks of all targets in turn; the next ones are computed while one is written."""

    def __init__(
        self, targets: Sequence[_Target], executor: ThreadPoolExecutor, *, n_ahead: int
    ) -> None:
        self.targets = targets
        self._executor = executor
        self._n_ahead = n_ahead
        self._current: tuple[tuple[int, int], NDArray[np.float32]] | None = None
        self._ahead: dict[tuple[int, int], Future[NDArray[np.float32]]] = {}

    def get(self, target: int, block: int) -> NDArray[np.float32]:
        """Rows of a block of a target."""
        key = (target, block)
        if self._current is not None and self._current[0] == key:
            return self._current[1]
        self._current = None
        known, self._ahead = self._ahead, {}
        for wanted in self._following(key):
            future = known.pop(wanted, None)
            self._ahead[wanted] = future or self._executor.submit(
                self.targets[wanted[0]].compute, wanted[1]
            )
        for future in known.values():
            future.cancel()
        rows = self._ahead.pop(key).result()
        self._current = (key, rows)
        return rows

    def _following(self, key: tuple[int, int]) -> list[tuple[int, int]]:
        """A block, and those that are asked for next if all are."""
        keys: list[tuple[int, int]] = []
        target, block = key
        while len(keys) <= self._n_ahead and target < len(self.targets):
            keys.append((target, block))
            block += 1
            if block == self.targets[target].n_blocks:
                target, block = target + 1, 0
        return keys

    def finish(self, target: int) -> None:
        """Let go of a target's weights."""
        self._current = None
        for key in [key for key in self._ahead if key[0] <= target]:
            self._ahead.pop(key).cancel()
        self.targets[target].__dict__.pop("loaded", None)

    def stop(self) -> None:
        """Cancel what is still waiting."""
        for future in self._ahead.values():
            future.cancel()


class DecodedConnectomes:
    """A source's predictions of a target: see `kraken_bids.formats.outputs.Decoded`."""

    def __init__(self, blocks: _Blocks, number: int, position: int) -> None:
        self._blocks, self._number, self._position = blocks, number, position
        self._target = blocks.targets[number]
        planned = self._target.sources[position]
        self.source, self.target = planned.name, self._target.flavor
        self.shape = (self._target.n, self._target.n_edges)
        self.n_inputs = self._target.cohort.n_inputs(planned.members)
        self._features: Any = None

    def batches(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """All participants in order, a block at a time: the first one, and (k, n_edges)."""
        n, size = self._target.n, self._target.block_rows
        row, last = self._position * n, (self._position + 1) * n
        while row < last:
            block, offset = divmod(row, size)
            n_taken = min(size - offset, last - row)
            rows = self._blocks.get(self._number, block)[offset : offset + n_taken]
            yield row - self._position * n, rows
            row += n_taken

    def columns(self, start: int, stop: int) -> NDArray[np.float32]:
        """Edges start to stop of all participants: (n, stop - start)."""
        target, edges = self._target, slice(start, stop)
        with target.device.computing():
            if self._features is None:
                self._features = target.features(self._position, slice(None))
            found = target.device.get(target.loaded.some_edges(self._features, edges))
        if target.scale is None or not target.scale.fits:
            return found
        return target.scale.inverse(target.flavor, found, 0, edges)
