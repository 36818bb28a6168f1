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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from traceback import format_exception
from typing import Any

# Nipype asks a server for its newest version when it is imported, unless told not to.
os.environ.setdefault("NO_ET", "1")
os.environ.setdefault("NIPYPE_NO_ET", "1")

import threadpoolctl
from nipype import config as nipype_config
from nipype.pipeline import engine as pe
from nipype.pipeline.plugins.legacymultiproc import LegacyMultiProcPlugin
from nipype.pipeline.plugins.linear import LinearPlugin
from nipype.pipeline.plugins.multiproc import MultiProcPlugin

from .console import EVERYTHING
from .errors import ResourceError
from .failures import NodeFailure, as_last_line, last_message, read_failures
from .plugin_file import Plugin
from .settings import Resources

_log = logging.getLogger(__name__)

#: ``prctl`` option: which signal a process gets when its parent dies (Linux).
PR_SET_PDEATHSIG = 1

#: Called with the full name of a node and ``start``, ``end`` or ``exception``.
StatusCallback = Callable[[str, str], None]


class MultiProc(MultiProcPlugin):
    """Nipype's process pool, which tells when a worker was killed instead of waiting for ever."""

    def __init__(self, plugin_args: dict[str, Any]) -> None:
        super().__init__(plugin_args=plugin_args)
        self.pool: Any = self.pool
        self._submitted: dict[int, tuple[Any, Any]] = {}  # node and pool by number of the task
        self._order: dict[tuple[str, ...], int] = {}  # of sessions
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

    def _generate_dependency_list(self, graph: Any) -> None:
        super()._generate_dependency_list(graph)
        for node in self.procs:  # in an order in which none depends on a later one
            self._order.setdefault(_branch(node), len(self._order))

    def _sort_jobs(self, jobids: Iterable[int], scheduler: str = "tsort") -> list[int]:  # noqa: ARG002
        """Put the steps of one session before those of the next, so that what is begun ends.

        Nipype's own order takes the first steps of all sessions, then their second steps: none
        would be done until all nearly are, and the scratch files of all would be there together.
        """

        def place(jobid: int) -> tuple[int, int]:
            whole = self.mapnodesubids.get(jobid, jobid)  # a part of a step: where that stands
            return self._order[_branch(self.procs[whole])], jobid

        return sorted(jobids, key=place)

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
            line = as_last_line(self._memory_error(told, node))
            return {"result": None, "traceback": [line], "taskid": taskid}
        except Exception as error:  # noqa: BLE001 - told as the node's failure, whatever it is
            result = {"result": None, "traceback": format_exception(error), "taskid": taskid}
        if result.get("traceback") and (problem := self._explain(result["traceback"], node)):
            result["traceback"] = [*result["traceback"], as_last_line(problem)]
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
            message = last_message(lines)
            self.unwritten.append(NodeFailure(node.fullname, message, Path(os.devnull)))
            return ""


def _branch(node: Any) -> tuple[str, ...]:
    """What a node is part of, directly below the whole graph: a session's workflow, or itself."""
    return tuple(node.fullname.split(".")[:2])


#: What a full disk, or one with a quota, says.
_NO_ROOM = re.compile(r"(?<=\] )(No space left on device|Disk quota exceeded|File too large)")
#: Last line of a traceback of an allocation that failed.
_NO_MEMORY = re.compile(r"^\s*\S*MemoryError(?:: (?P<text>.*))?\Z", re.MULTILINE)


def _start_worker(cwd: str, n_threads: int) -> None:
    """Prepare a worker: it keeps to its threads, dies with its parent, leaves interrupts to it."""
    _limit_threads(n_threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(cwd)


#: Variables by which libraries of linear algebra are told their number of threads. All are set:
#: each library prefers its own to OpenMP's.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip


def _limit_threads(n_threads: int) -> None:
    """Have libraries keep to so many threads in this process, and programs that it starts."""
    # Libraries that are loaded already are told; those to come read the environment.
    threadpoolctl.threadpool_limits(limits=n_threads)
    os.environ |= dict.fromkeys(THREAD_VARIABLES, str(n_threads))


@contextlib.contextmanager
def _threads_limited(n_threads: int) -> Iterator[None]:
    """Limit the threads of the main process, which runs small steps itself, for a while."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    with threadpoolctl.threadpool_limits(limits=n_threads):
        os.environ |= dict.fromkeys(THREAD_VARIABLES, str(n_threads))
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _tell_large_steps(workflow: pe.Workflow, resources: Resources) -> None:
    """Say before the start which steps need more memory than there is; they run alone."""
    needs: dict[str, float] = {}
    for name in workflow.list_node_names():
        node = workflow.get_node(name)
        if node.mem_gb and node.mem_gb > resources.mem_gb:
            needs[node.name] = max(node.mem_gb, needs.get(node.name, 0.0))
    for name, need_gb in needs.items():
        _log.warning(
            "step '%s' needs about %.3g GB, the limit is %.3g GB (--mem): it is run alone, and "
            "may be killed",
            name,
            need_gb,
            resources.mem_gb,
        )


def run_workflow(
    workflow: pe.Workflow,
    *,
    resources: Resources,
    crash_dir: Path,
    log_file: Path | None = None,
    plugin: Plugin | None = None,
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
        As asked for; our `MultiProc` if None.
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

    listener = _Listener(on_status)
    if plugin is not None and plugin.kind.is_cluster:
        workflow.config["execution"] |= _cluster_timing()
    else:
        _tell_large_steps(workflow, resources)
    runner = _runner(plugin, resources, n_gpus=n_gpus, listener=listener)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_stopping_cleanly())
        stack.enter_context(_nipype_log(log_file))
        stack.enter_context(_loaded_code_kept())
        stack.enter_context(_threads_limited(resources.omp_nthreads))
        try:
            workflow.run(plugin=runner)
        except RuntimeError as error:
            # Nipype re-raises the first failure at the end; the crash files tell all of them.
            _log.debug("workflow ended with %s", error)
            failures = [*read_failures(crash_dir), *getattr(runner, "unwritten", ())]
            if not failures:
                raise
            return failures
    return read_failures(crash_dir)


def _runner(
    plugin: Plugin | None, resources: Resources, *, n_gpus: int, listener: _Listener
) -> Any:
    """The plugin that is asked for, in our version where there is one."""
    name = plugin.name if plugin else "MultiProc"
    given: dict[str, Any] = {**(plugin.arguments if plugin else {}), "status_callback": listener}
    here = {
        "n_procs": resources.n_procs,
        "memory_gb": resources.mem_gb,
        "raise_insufficient": False,
    }
    if plugin is not None and plugin.kind.is_cluster:
        from .cluster_plugins import CLUSTER_PLUGINS

        return CLUSTER_PLUGINS[name](given)
    if name == "Linear":
        return LinearPlugin(given)
    if name == "LegacyMultiProc":
        return LegacyMultiProcPlugin({**here, **given})
    more = {"omp_nthreads": resources.omp_nthreads, "n_gpu_procs": n_gpus}
    return MultiProc({**here, **more, **given})


def _cluster_timing() -> dict[str, str]:
    """How often a scheduler is asked, and how long results may take to arrive."""
    from .cluster_plugins import POLL_SECONDS, RESULT_SECONDS

    return {
        "poll_sleep_duration": str(POLL_SECONDS),
        "job_finished_timeout": str(RESULT_SECONDS),
    }


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
    """Turn Nipype's own log, which is long, away from the terminal, unless all is to be told."""
    log = logging.getLogger("nipype")
    handler: logging.Handler = logging.NullHandler()
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(log_file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    told = logging.getLogger("kraken_bids").handlers if _log.isEnabledFor(EVERYTHING) else []
    before, log.handlers, log.propagate = log.handlers, [handler, *told], False
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
