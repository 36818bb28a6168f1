# SPDX-License-Identifier: MIT
"""Running a Nipype graph: plugin, resources, progress, and what failed for whom."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from traceback import format_exception
from typing import Any

# Nipype asks a server for its newest version when it is imported, unless told not to.
os.environ.setdefault("NO_ET", "1")
os.environ.setdefault("NIPYPE_NO_ET", "1")

import threadpoolctl
from nipype import config as nipype_config
from nipype.pipeline import engine as pe
from nipype.pipeline.plugins.multiproc import MultiProcPlugin

from .errors import ResourceError
from .settings import Resources

_log = logging.getLogger(__name__)

#: ``prctl`` option: which signal a process gets when its parent dies (Linux).
PR_SET_PDEATHSIG = 1

#: Called with the full name of a node and ``start``, ``end`` or ``exception``.
StatusCallback = Callable[[str, str], None]


@dataclass(frozen=True)
class NodeFailure:
    """A node that failed: its full name, what it said last, and the file with the details."""

    node: str
    message: str
    crash_file: Path


class MultiProc(MultiProcPlugin):
    """Nipype's process pool, which tells when a worker was killed instead of waiting for ever."""

    def __init__(self, plugin_args: dict[str, Any]) -> None:
        super().__init__(plugin_args=plugin_args)
        self.pool: Any = self.pool
        self._renew_pool()

    def _renew_pool(self) -> None:
        """Replace the pool; Nipype's own lets its workers outlive it."""
        self.pool.shutdown(wait=False)
        self.pool = type(self.pool)(
            max_workers=self.processors,
            initializer=_start_worker,
            initargs=(self._cwd, self.plugin_args["omp_nthreads"]),
        )

    def _async_callback(self, args: Any) -> None:
        """Results are asked for in `_get_result`; a callback could not raise."""

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        future = self._task_obj[taskid]
        if not future.done():
            return None
        try:
            result: dict[str, Any] = future.result()
        except BrokenProcessPool:
            self._renew_pool()
            error = ResourceError(
                "a worker process was killed from outside, most often because memory ran out",
                fix="Give more memory (--mem, or the scheduler's request) or fewer processes "
                "(--nprocs).",
            )
            name = f"{type(error).__module__}.{type(error).__name__}"
            return {"result": None, "traceback": [f"{name}: {error}\n"], "taskid": taskid}
        except Exception as error:  # noqa: BLE001 - told as the node's failure, whatever it is
            return {"result": None, "traceback": format_exception(error), "taskid": taskid}
        return result


def _start_worker(cwd: str, n_threads: int) -> None:
    """Prepare a worker: it keeps to its threads, dies with its parent, leaves interrupts to it."""
    # Libraries that are loaded already are told; those to come read the environment.
    threadpoolctl.threadpool_limits(limits=n_threads)
    os.environ["OMP_NUM_THREADS"] = str(n_threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(cwd)


def run_workflow(
    workflow: pe.Workflow,
    *,
    resources: Resources,
    crash_dir: Path,
    log_file: Path | None = None,
    plugin: Mapping[str, Any] | None = None,
    n_gpus: int = 0,
    stop_on_first_crash: bool = False,
    resource_monitor: bool = False,
    on_status: StatusCallback | None = None,
) -> list[NodeFailure]:
    """Run a graph to its end, as far as failures let it.

    Parameters
    ----------
    workflow
        The graph.
    resources
        Processes, threads and memory.
    crash_dir
        Where the details of failures go.
    log_file
        Where Nipype tells of every step; nowhere if None.
    plugin
        ``plugin`` and ``plugin_args`` for `nipype.Workflow.run`; our `MultiProc` if None.
    n_gpus
        GPU slots.
    stop_on_first_crash
        Stop at the first failure instead of finishing what does not depend on it.
    resource_monitor
        Record memory and CPU of each node in ``resource_monitor.json`` of the work folder.
    on_status
        Called at every start, end and failure of a node.

    Returns
    -------
    list of NodeFailure
        In the order in which they happened.
    """
    crash_dir.mkdir(parents=True, exist_ok=True)
    workflow.config["execution"] = {
        "crashdump_dir": str(crash_dir),
        "crashfile_format": "txt",
        "stop_on_first_crash": str(stop_on_first_crash).lower(),
        "remove_unnecessary_outputs": "false",
        "check_version": "false",
        "poll_sleep_duration": "0.2",
    }
    nipype_config.update_config({"execution": {"check_version": "false"}})
    nipype_config.resource_monitor = resource_monitor

    status_callback = _Listener(on_status)
    if plugin is None:
        runner: Any = MultiProc({
            "n_procs": resources.n_procs,
            "omp_nthreads": resources.omp_nthreads,
            "memory_gb": resources.mem_gb,
            "n_gpu_procs": n_gpus,
            "raise_insufficient": False,
            "status_callback": status_callback,
        })
        arguments: dict[str, Any] = {}
    else:
        runner = plugin.get("plugin", "MultiProc")
        arguments = {"status_callback": status_callback, **plugin.get("plugin_args", {})}
    with _stopping_cleanly(), _nipype_log(log_file), _loaded_code_kept():
        try:
            workflow.run(plugin=runner, plugin_args=arguments)
        except RuntimeError as error:
            # Nipype re-raises the first failure at the end; the crash files tell all of them.
            _log.debug("workflow ended with %s", error)
            failures = read_failures(crash_dir)
            if not failures:
                raise
            return failures
    return read_failures(crash_dir)


class _Listener:
    """Pass the status of nodes on; Nipype sends it along to workers, where it is deaf."""

    def __init__(self, on_status: StatusCallback | None) -> None:
        self._on_status = on_status

    def __call__(self, node: Any, status: str) -> None:
        if self._on_status is not None:
            self._on_status(node.fullname, status)

    def __reduce__(self) -> tuple[type[_Listener], tuple[None]]:
        return _Listener, (None,)


@contextlib.contextmanager
def _loaded_code_kept() -> Iterator[None]:
    """Keep what is loaded out of garbage collection, which Nipype asks for at every step.

    Looking through all of it took 0.1 s of CPU time each, more than many a step.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _nipype_log(log_file: Path | None) -> Iterator[None]:
    """Turn Nipype's own log, which is long, away from the terminal."""
    log = logging.getLogger("nipype")
    handler: logging.Handler = logging.NullHandler()
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(log_file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    before, log.handlers, log.propagate = log.handlers, [handler], False
    try:
        yield
    finally:
        log.handlers, log.propagate = before, True
        handler.close()


def read_failures(crash_dir: Path) -> list[NodeFailure]:
    """Read the crash files of a run."""
    files = sorted(crash_dir.glob("crash-*.txt"), key=lambda path: path.stat().st_mtime_ns)
    return [_read_failure(path) for path in files]


#: The line with which Python ends a traceback: a dotted exception name, then its message.
_LAST_LINE = re.compile(
    r"^(?P<error>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)): ?(?P<text>.*)"
)


def _read_failure(path: Path) -> NodeFailure:
    lines = path.read_text("utf-8", errors="replace").splitlines()
    node = next((line.removeprefix("Node: ") for line in lines if line.startswith("Node: ")), "")
    message = ""
    for line in lines:
        match = _LAST_LINE.match(line.strip())
        ours = match is not None and match["error"].startswith("kraken_bids.")
        if match and ours:
            return NodeFailure(node, match["text"], path)
        if match and match["error"] != "nipype.pipeline.engine.nodes.NodeExecutionError":
            message = f"{match['error'].rpartition('.')[2]}: {match['text']}"
    return NodeFailure(node, message or "stopped without a message", path)


@contextlib.contextmanager
def _stopping_cleanly() -> Iterator[None]:
    """End all child processes, however deep, when the run is interrupted or terminated."""

    def terminated(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except KeyboardInterrupt:
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def descendants(pid: int) -> list[int]:
    """Processes started by a process, directly or not (Linux; elsewhere none)."""
    children: dict[int, list[int]] = {}
    for entry in _processes():
        children.setdefault(_parent(entry), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        more = children.get(queue.pop(), [])
        found += more
        queue += more
    return found


def _processes() -> list[Path]:
    proc = Path("/proc")
    return [entry for entry in proc.iterdir() if entry.name.isdigit()] if proc.is_dir() else []


def _parent(entry: Path) -> int:
    try:
        # The program's name may hold blanks and brackets: the fields start after the last one.
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def claim_folder(folder: Path) -> None:
    """Make sure that no other run works in a folder.

    A run that was killed outright may leave programs behind that still write there (MRtrix3's
    ``tckgen`` opens its file anew at every write): such orphans are ended.

    Raises
    ------
    ResourceError
        If another run that is alive works there.
    """
    orphans = []
    for entry in _processes():
        pid = int(entry.name)
        with contextlib.suppress(OSError):
            cwd = (entry / "cwd").resolve()
            if pid == os.getpid() or not cwd.is_relative_to(folder.resolve()):
                continue
            if owner := _owning_run(pid):
                raise ResourceError(
                    f"another run (process {owner}) works in this folder",
                    where=str(folder),
                    fix="Wait for it, or give this run another --work-dir.",
                )
            orphans.append(pid)
    for pid in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cwd").exists() for pid in orphans):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)


def _owning_run(pid: int) -> int:
    """The living kraken-bids process that a process descends from, or 0."""
    while pid > 1:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return 0
        if b"kraken-bids" in command or b"kraken_bids" in command:
            return pid
        pid = _parent(Path(f"/proc/{pid}"))
    return 0
