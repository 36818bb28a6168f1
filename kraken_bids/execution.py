# SPDX-License-Identifier: MIT
"""Running a Nipype graph: plugin, resources, progress, and what failed for whom."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        self._submitted: dict[int, tuple[Any, Any]] = {}  # node and pool by number of the task
        #: Failures whose details found no room on the disk.
        self.unwritten: list[NodeFailure] = []
        self._renew_pool()

    def _renew_pool(self) -> None:
        """Replace the pool; Nipype's own lets its workers outlive it."""
        self.pool.shutdown(wait=False)
        self.pool = type(self.pool)(
            max_workers=self.processors,
            initializer=_start_worker,
            initargs=(self._cwd, self.plugin_args["omp_nthreads"]),
        )

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        """Hand a node to the pool; gives the number of its task."""
        try:
            taskid: int = super()._submit_job(node, updatehash)
        except BrokenProcessPool:  # a worker was killed that had nothing to do
            self._renew_pool()
            taskid = super()._submit_job(node, updatehash)
        self._submitted[taskid] = node, self.pool
        return taskid

    def _async_callback(self, args: Any) -> None:
        """Results are asked for in `_get_result`; a callback could not raise."""

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        future = self._task_obj[taskid]
        if not future.done():
            return None
        node, pool = self._submitted[taskid]
        try:
            result: dict[str, Any] = future.result()
        except BrokenProcessPool:
            if pool is self.pool:
                self._renew_pool()
            told = "a worker process was killed from outside, most often because memory ran out"
            line = _as_last_line(self._memory_error(told, node))
            return {"result": None, "traceback": [line], "taskid": taskid}
        except Exception as error:  # noqa: BLE001 - told as the node's failure, whatever it is
            result = {"result": None, "traceback": format_exception(error), "taskid": taskid}
        if result.get("traceback") and (problem := self._explain(result["traceback"], node)):
            result["traceback"] = [*result["traceback"], _as_last_line(problem)]
        return result

    def _explain(self, traceback: Sequence[str], node: Any) -> ResourceError | None:
        """Say of a failure below our own code that memory or disk were used up, if so."""
        text = "".join(traceback)
        if match := _NO_ROOM.search(text):
            return ResourceError(
                f"step '{node.name}' cannot write: {match[0].strip()}",
                where=f"working folder {node.base_dir or ''}".strip(),
                fix="Make room, or give a --work-dir on a larger disk.",
            )
        if match := _NO_MEMORY.search(text.rstrip()):
            return self._memory_error(f"memory ran out ({match['text'] or 'MemoryError'})", node)
        return None

    def _memory_error(self, what: str, node: Any) -> ResourceError:
        """What a node that ran out of memory needs, and what it may take."""
        return ResourceError(
            f"{what}: step '{node.name}' needs about {node.mem_gb or 0.2:.3g} GB, the limit is "
            f"{self.memory_gb:.3g} GB for {self.processors} process(es)",
            fix="Give more memory (--mem, or the scheduler's request) or fewer processes "
            "(--nprocs).",
        )

    def _report_crash(self, node: Any, result: dict[str, Any] | None = None) -> str:
        """Write the details of a failure; on a full disk keep in mind what it was."""
        try:
            return str(super()._report_crash(node, result))
        except OSError:
            lines = "".join((result or {}).get("traceback") or ()).splitlines()
            message = _message(lines)
            self.unwritten.append(NodeFailure(node.fullname, message, Path(os.devnull)))
            return ""


#: What a full disk, or one with a quota, says.
_NO_ROOM = re.compile(r"(?<=\] )(No space left on device|Disk quota exceeded|File too large)")
#: Last line of a traceback of an allocation that failed.
_NO_MEMORY = re.compile(r"^\s*\S*MemoryError(?:: (?P<text>.*))?\Z", re.MULTILINE)


def _as_last_line(error: ResourceError) -> str:
    return f"{type(error).__module__}.{type(error).__name__}: {error}\n"


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
            failures = [*read_failures(crash_dir), *getattr(runner, "unwritten", ())]
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
        handler = _LogFile(log_file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    before, log.handlers, log.propagate = log.handlers, [handler], False
    try:
        yield
    finally:
        log.handlers, log.propagate = before, True
        with contextlib.suppress(OSError):  # told by `_LogFile`
            handler.close()


class _LogFile(logging.FileHandler):
    """A log file; if its disk is full that is said once, and work goes on."""

    is_told = False

    def handleError(self, _record: logging.LogRecord) -> None:  # noqa: N802 - Python's name
        """Take note of a line that could not be written."""
        if not self.is_told:
            self.is_told = True
            _log.warning("the log %s cannot be written: %s", self.baseFilename, sys.exc_info()[1])


def read_failures(crash_dir: Path) -> list[NodeFailure]:
    """Read the crash files of a run, but those that a full disk has cut before the node."""
    files = sorted(crash_dir.glob("crash-*.txt"), key=lambda path: path.stat().st_mtime_ns)
    return [failure for failure in map(_read_failure, files) if failure.node]


def keep_details(failure: NodeFailure, folder: Path) -> Path:
    """Move the details of a failure to the logs; where that cannot be, they stay."""
    kept = folder / failure.crash_file.name
    if failure.crash_file == Path(os.devnull):
        return failure.crash_file
    try:
        shutil.move(failure.crash_file, kept)
    except OSError as error:
        _log.warning("%s cannot be written: %s", kept, error.strerror)
        return failure.crash_file
    return kept


#: The line with which Python ends a traceback: a dotted exception name, then its message.
_LAST_LINE = re.compile(
    r"^(?P<error>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)): ?(?P<text>.*)"
)


def _read_failure(path: Path) -> NodeFailure:
    lines = path.read_text("utf-8", errors="replace").splitlines()
    node = next((line.removeprefix("Node: ") for line in lines if line.startswith("Node: ")), "")
    return NodeFailure(node, _message(lines), path)


def _message(lines: Sequence[str]) -> str:
    """What a traceback says last, in our words if it is an error of ours."""
    message = ""
    for line in lines:
        match = _LAST_LINE.match(line.strip())
        if match and match["error"].startswith("kraken_bids."):
            return match["text"]
        if match and match["error"] != "nipype.pipeline.engine.nodes.NodeExecutionError":
            message = f"{match['error'].rpartition('.')[2]}: {match['text']}"
    return message or "stopped without a message"


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
