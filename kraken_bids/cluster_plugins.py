# SPDX-License-Identifier: MIT
"""Nipype's plugins for Slurm, PBS and Grid Engine, with what they lack.

Each node becomes a job that asks for what the node needs. A job that its scheduler ended is told
with the reason, an interrupted run takes its jobs with it, and a graph that was submitted as a
whole is waited for.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nipype.pipeline.plugins.pbs import PBSPlugin
from nipype.pipeline.plugins.sge import SGEPlugin
from nipype.pipeline.plugins.slurm import SLURMPlugin
from nipype.pipeline.plugins.slurmgraph import SLURMGraphPlugin
from nipype.pipeline.plugins.tools import create_pyscript, report_crash
from nipype.utils.filemanip import loadpkl

from .errors import ResourceError
from .execution import THREAD_VARIABLES
from .failures import as_last_line, read_failures

_log = logging.getLogger(__name__)

#: What a job takes before its node does anything, on top of the node's own need. Measured: 0.13 GB
#: resident with Nipype and our interfaces, 0.41 GB with torch and nilearn's plotting, too.
START_GB = 0.4
#: How often the scheduler is asked; of Slurm, once for all jobs.
POLL_SECONDS = 1.0
#: How long a scheduler may be silent before the run gives up.
PATIENCE_SECONDS = 600.0
#: How long results may take from the node that wrote them to this one (NFS caches folders).
RESULT_SECONDS = 30.0
#: How long an interrupted run waits for its cancelled jobs to end.
CANCEL_SECONDS = 20.0


def slurm_request(node: Any, given: str) -> str:
    """What ``sbatch`` is asked for a node, but what a person has asked for already.

    Parameters
    ----------
    node
        Its ``n_procs``, ``mem_gb`` and whether it wants a GPU count.
    given
        The person's own words.
    """
    words = []
    if not re.search(r"(^|\s)(-n|--ntasks|-c|--cpus-per-task)", given):
        words += ["--nodes=1", "--ntasks=1", f"--cpus-per-task={node.n_procs}"]
    if "--mem" not in given:
        words.append(f"--mem={_mebibytes(node)}M")
    if node.is_gpu_node() and "--gres" not in given and "--gpus" not in given:
        words.append("--gres=gpu:1")
    return " ".join(words)


def pbs_request(node: Any, given: str) -> str:
    """What PBS is asked for a node; the spelling is understood by PBS Pro, OpenPBS and Torque."""
    wanted = {"ncpus": f"{node.n_procs}", "mem": f"{_mebibytes(node)}mb"}
    if re.search(r"select=|nodes=", given):
        return ""  # chunks and single resources cannot be mixed
    words = [f"{key}={value}" for key, value in wanted.items() if f"{key}=" not in given]
    return f"-l {','.join(words)}" if words else ""


def sge_request(node: Any, given: str) -> str:
    """What Grid Engine is asked for a node; it counts memory for each slot."""
    words = []
    if node.n_procs > 1 and not re.search(r"(^|\s)-pe\s", given):
        words.append(f"-pe smp {node.n_procs}")
    if not re.search(r"h_vmem=|mem_free=|vf=", given):
        words.append(f"-l h_vmem={math.ceil(_mebibytes(node) / node.n_procs)}M")
    return " ".join(words)


def _mebibytes(node: Any) -> int:
    return math.ceil(((node.mem_gb or 0.2) + START_GB) * 1e9 / 2**20)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put an interrupt off: a job that was submitted must be known before it can be cancelled."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {
        number: signal.signal(number, lambda number, _frame: came.append(number))
        for number in numbers
    }
    # Programs started here are spared: a Ctrl-C at the terminal would reach them, too.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            raise KeyboardInterrupt


def _ask(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the scheduler."""
    return subprocess.run(words, check=False, capture_output=True, text=True)


def _refused(done: subprocess.CompletedProcess[str]) -> ResourceError:
    """The scheduler's own words on a job that it does not take."""
    return ResourceError(
        f"the scheduler refused a job: {' '.join((done.stderr or done.stdout).split())}",
        where="--use-plugin",
        fix="Mend sbatch_args or qsub_args (queue, account, time, memory), or give max_jobs if "
        "there are too many at a time. Jobs already submitted were cancelled.",
    )


class _Queue:
    """The jobs of this user that have not ended, asked for once for all of them.

    Parameters
    ----------
    words
        Lists all jobs of the user, a line a job.
    pattern
        Finds the id (group ``id``) in such a line, and perhaps why it waits (``reason``).
    """

    def __init__(self, words: Sequence[str], pattern: str) -> None:
        self._words = tuple(words)
        self._pattern = re.compile(pattern)
        self._listed: dict[str, str] = {}
        self._asked_at = -math.inf
        self._heard_at = time.monotonic()

    def listed(self, *, since: float) -> dict[str, str] | None:
        """Reason by id of the jobs that wait or run; None while the scheduler is silent.

        Parameters
        ----------
        since
            Moment (monotonic) that an older list must not stem from.

        Raises
        ------
        ResourceError
            If the scheduler has been silent for too long.
        """
        now = time.monotonic()
        if self._asked_at > since and now - self._asked_at < POLL_SECONDS / 2:
            return self._listed if self._heard_at >= self._asked_at else None
        self._asked_at = now
        done = _ask(*self._words)
        if done.returncode == 0:
            matches = (self._pattern.match(line) for line in done.stdout.splitlines())
            self._listed = {match["id"]: match.groupdict().get("reason") or ""
                            for match in matches if match}  # fmt: skip
            self._heard_at = time.monotonic()
            return self._listed
        self.be_patient(done.stderr)
        return None

    def be_patient(self, told: str) -> None:
        """Take note of silence; raises after a while."""
        silent = time.monotonic() - self._heard_at
        _log.warning("%s does not answer: %s", self._words[0], told.strip())
        if silent > PATIENCE_SECONDS:
            raise ResourceError(
                f"{self._words[0]} has failed for {silent / 60:.0f} min: {told.strip()}",
                where="--use-plugin",
                fix="Run again when the scheduler is back: steps that are done are kept.",
            )


def slurm_queue() -> _Queue:
    """Jobs as ``squeue`` lists them: that of one job would fail for those forgotten already."""
    return _Queue(
        ("squeue", "--noheader", f"--user={os.getuid()}", "--format=%A|%r"),
        r"\s*(?P<id>\d+)\|(?P<reason>.*)",
    )


def sge_queue() -> _Queue:
    """Jobs as ``qstat`` lists them, but those that could not start and would stay for ever (E)."""
    return _Queue(
        ("qstat", "-u", getpass.getuser()),
        r"\s*(?P<id>\d+)\s+\S+\s+\S+\s+\S+\s+(?!\S*E)\S+\s",
    )


def slurm_end(number: str) -> str:
    """How a job ended, in Slurm's words (COMPLETED, TIMEOUT …); empty once it has forgotten."""
    done = _ask("scontrol", "--oneliner", "show", "job", number)
    found = re.search(r"\bJobState=(\w+)", done.stdout)
    return found[1] if found and done.returncode == 0 else ""


class _Jobs:
    """What Nipype's plugins that submit a node at a time have in common here.

    Nipype makes names of jobs of ``LOGNAME``, which is missing under cron and in CI, and takes a
    job that was refused for one that waits; so they are submitted here.
    """

    _pending: dict[Any, str]
    _template: str
    _max_tries: int
    _retry_timeout: float
    plugin_args: dict[str, Any]

    #: Key of a person's words for the scheduler in ``plugin_args``, and what a node adds to them.
    args_key: str
    request: Callable[[Any, str], str]
    submit_program: str
    cancel_program: str
    #: Finds the number of a job in what the scheduler prints.
    id_pattern: str
    _queue: _Queue

    def __init__(self, plugin_args: Mapping[str, Any]) -> None:
        super().__init__(plugin_args=dict(plugin_args))  # type: ignore[call-arg]
        self._nodes: dict[str, tuple[Any, Path, float]] = {}  # with script and moment by job

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run a graph; jobs that are left are cancelled if that is not its end."""
        try:
            super().run(graph, config, updatehash=updatehash)  # type: ignore[misc]
        except BaseException:
            self._cancel()
            raise

    def _submit_job(self, node: Any, updatehash: bool = False) -> str:
        """Submit a node; gives the number of its job."""
        _forget_stale_result(node)
        given = self.plugin_args.get(self.args_key, "")
        request = "" if "template" in self.plugin_args else type(self).request(node, given)
        script = Path(create_pyscript(node, updatehash=updatehash))
        job = _write_job(script, self._template, n_threads=node.n_procs)
        words = [*self._naming(node, job.parent), *shlex.split(f"{request} {given}"), str(job)]
        with _uninterrupted():
            number = self._hand_over(words)
            self._nodes[number] = node, script, time.monotonic()
            self._pending[number] = node.output_dir()
        return number

    def _hand_over(self, words: Sequence[str]) -> str:
        for remaining in range(self._max_tries, -1, -1):
            done = _ask(self.submit_program, *words)
            found = re.search(self.id_pattern, done.stdout, re.MULTILINE)
            if done.returncode == 0 and found:
                return found[1]
            if remaining:
                time.sleep(self._retry_timeout)
        raise _refused(done)

    def _naming(self, node: Any, folder: Path) -> list[str]:
        """Words for the name of a job, and for where its log goes."""
        return ["-N", node.name, "-o", str(folder), "-e", str(folder)]

    def _get_result(self, number: str) -> dict[str, Any] | None:
        """What became of a job; None while it waits or runs."""
        if self._is_pending(number):
            return None
        node, script, _ = self._nodes[number]
        end = self._end(number)
        if problem := _missing_result(node, script, end, log=_job_log(script, number)):
            return {"result": None, "traceback": problem}
        result: dict[str, Any] = super()._get_result(number)  # type: ignore[misc]
        return result

    def _is_pending(self, number: str) -> bool:
        """Whether a job waits or runs."""
        listed = self._queue.listed(since=self._nodes[number][2])
        return listed is None or number in listed

    def _clear_task(self, number: str) -> None:
        super()._clear_task(number)  # type: ignore[misc]
        del self._nodes[number]

    def _end(self, _number: str) -> str:
        """How a job ended, as far as the scheduler tells."""
        return ""

    def _cancel(self) -> None:
        cancel_jobs(self.cancel_program, list(self._pending))
        _wait_until(lambda: not any(map(self._is_pending, self._pending)))


class Slurm(_Jobs, SLURMPlugin):
    """A job a node on Slurm."""

    args_key, request = "sbatch_args", staticmethod(slurm_request)
    submit_program, cancel_program = "sbatch", "scancel"

    def __init__(self, plugin_args: Mapping[str, Any]) -> None:
        super().__init__(plugin_args)
        self.id_pattern = self._jobid_re
        self._queue = slurm_queue()

    def _naming(self, node: Any, folder: Path) -> list[str]:
        return [f"--job-name={node.fullname}", f"--output={folder}/slurm-%j.out"]

    def _end(self, number: str) -> str:
        return slurm_end(number)


class GridEngine(_Jobs, SGEPlugin):
    """A job a node on Grid Engine.

    Nipype looks for ended jobs with ``qacct`` and compares its bytes with text, which fails: it
    would wait for ever where ``qstat`` forgets a job that has ended.
    """

    args_key, request = "qsub_args", staticmethod(sge_request)
    submit_program, cancel_program = "qsub", "qdel"
    id_pattern = r"[Yy]our job (\d+)"

    def __init__(self, plugin_args: Mapping[str, Any]) -> None:
        super().__init__(plugin_args)
        self._queue = sge_queue()


class Pbs(_Jobs, PBSPlugin):
    """A job a node on PBS Pro, OpenPBS or Torque."""

    args_key, request = "qsub_args", staticmethod(pbs_request)
    submit_program, cancel_program = "qsub", "qdel"
    id_pattern = r"^(\d+)"

    def _naming(self, node: Any, folder: Path) -> list[str]:
        return ["-N", node.name[: self._max_jobname_len], *super()._naming(node, folder)[2:]]

    def _is_pending(self, number: str) -> bool:
        # Nipype knows what the three print of a job that has ended
        return bool(super(_Jobs, self)._is_pending(number))


class SlurmGraph(SLURMGraphPlugin):
    """A whole graph on Slurm at once: each job waits for those before it.

    Nipype's own comes back when the jobs are submitted. This one waits for their end; nothing
    starts before all are accepted, jobs whose predecessors failed are cancelled, and what ended
    without a word is told.
    """

    def __init__(self, plugin_args: Mapping[str, Any]) -> None:
        given = {"dont_resubmit_completed_jobs": True, **plugin_args}
        self._on_status: Callable[[Any, str], None] = given.pop("status_callback")
        super().__init__(plugin_args=given)
        self._queue = slurm_queue()
        self._left: dict[str, int] = {}  # number in the graph by job
        self._not_done: set[int] = set()
        self._submitted_at = 0.0

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run a graph to its end, as far as failures let it."""
        try:
            super().run(graph, config, updatehash=updatehash)
        except BaseException:
            cancel_jobs("scancel", list(self._left))
            _wait_until(lambda: self._left.keys().isdisjoint(self._listed()))
            raise

    def _submit_graph(
        self,
        pyfiles: Sequence[str],
        dependencies: Mapping[int, Sequence[int]],
        nodes: Sequence[Any],
    ) -> None:
        scripts = [Path(file) for file in pyfiles]
        jobs: dict[int, str] = {}
        done: set[int] = set()
        first: list[str] = []
        for index, node in enumerate(nodes):
            before = dependencies[index]
            is_kept = self._dont_resubmit_completed_jobs and done.issuperset(before)
            if is_kept and _is_done(node):
                done.add(index)
                continue
            _forget_stale_result(node)
            waits = [jobs[number] for number in before if number in jobs]
            with _uninterrupted():
                jobs[index] = self._submit_one(node, scripts[index], waits)
                self._left[jobs[index]] = index
            first += [] if waits else [jobs[index]]
        for index in done:
            self._on_status(nodes[index], "end")
        self._submitted_at = time.monotonic()
        for start in range(0, len(first), 500):
            released = _ask("scontrol", "release", ",".join(first[start : start + 500]))
            if released.returncode:
                raise _refused(released)
        _log.info("%d jobs submitted, %d steps are done already", len(jobs), len(done))
        self._watch(dependencies, nodes, scripts)

    def _submit_one(self, node: Any, script: Path, waits: Sequence[str]) -> str:
        """Submit one job, held until all are accepted unless it waits for others anyway."""
        given = self._sbatch_args
        job = _write_job(script, self._template, n_threads=node.n_procs)
        words = ["sbatch", "--parsable", f"--job-name={node.fullname}", f"--output={job}.%j.log"]
        words += shlex.split(given)
        if "template" not in self.plugin_args:
            words += slurm_request(node, given).split()
        words += (
            [f"--dependency=afterok:{':'.join(waits)}", "--kill-on-invalid-dep=yes"]
            if waits
            else ["--hold"]
        )
        done = _ask(*words, str(job))
        if done.returncode:
            raise _refused(done)
        return done.stdout.strip().partition(";")[0]

    def _watch(
        self,
        dependencies: Mapping[int, Sequence[int]],
        nodes: Sequence[Any],
        scripts: Sequence[Path],
    ) -> None:
        while self._left:
            time.sleep(POLL_SECONDS)
            listed = self._queue.listed(since=self._submitted_at)
            if listed is None:
                continue
            # Sites may keep jobs that can never run, whatever was asked for at their submission.
            never = [job for job in self._left if listed.get(job) == "DependencyNeverSatisfied"]
            cancel_jobs("scancel", never)
            # In the order of the graph: what failed is known before what waited for it.
            ended = sorted((index, job) for job, index in self._left.items() if job not in listed)
            for index, job in ended:
                del self._left[job]
                is_lost = not self._not_done.isdisjoint(dependencies[index])
                if is_lost or not self._settle(nodes[index], scripts[index], job):
                    self._not_done.add(index)

    def _settle(self, node: Any, script: Path, job: str) -> bool:
        """Tell what became of a job; whether its node is done."""
        end = slurm_end(job)
        log = script.with_suffix(f".sh.{job}.log")
        if end == "COMPLETED" or not (problem := self._problem(script, end, log)):
            self._on_status(node, "end")
            return True
        crash_dir = Path(node.config["execution"]["crashdump_dir"])
        if all(failure.node != node.fullname for failure in read_failures(crash_dir)):
            report_crash(node, traceback=problem)  # it had no time to do so itself
        self._on_status(node, "exception")
        if str(node.config["execution"]["stop_on_first_crash"]).lower() == "true":
            raise RuntimeError(f"{node.fullname} failed")
        return False

    def _problem(self, script: Path, end: str, log: Path) -> list[str]:
        # The node as it was submitted: it has not looked for its inputs yet.
        fresh = loadpkl(str(_node_file(script)))["node"]
        problem = _missing_result(fresh, script, end, log=log)
        if problem or _has_result(fresh):
            return problem
        return _ended_early(fresh, end, log=log)

    def _listed(self) -> dict[str, str]:
        """Jobs that wait or run, as asked for now."""
        return self._queue.listed(since=time.monotonic()) or {}


#: Our version of Nipype's plugins, by its name.
CLUSTER_PLUGINS: dict[str, type] = {
    "SLURM": Slurm,
    "SLURMGraph": SlurmGraph,
    "PBS": Pbs,
    "SGE": GridEngine,
}


def cancel_jobs(program: str, jobs: Sequence[str]) -> None:
    """Cancel jobs; those that have ended meanwhile are no error."""
    with _uninterrupted():
        for start in range(0, len(jobs), 500):
            _ask(program, *jobs[start : start + 500])


def _wait_until(is_over: Callable[[], bool]) -> None:
    """Wait for the end of cancelled jobs, but not for long."""
    deadline = time.monotonic() + CANCEL_SECONDS
    with contextlib.suppress(Exception):  # why the run ends has been told
        while not is_over() and time.monotonic() < deadline:
            time.sleep(0.2)


def _has_result(node: Any) -> bool:
    """Whether a result of these inputs is there; ``hash_exists`` takes outdated ones, too."""
    try:
        return all(node.is_cached())
    except Exception:  # noqa: BLE001 - Nipype, where what comes before has no result yet
        return False


def _is_done(node: Any) -> bool:
    """Whether a node need not run again."""
    is_forced = node.overwrite or (node.overwrite is None and node.interface.always_run)
    return not is_forced and _has_result(node)


def _forget_stale_result(node: Any) -> None:
    """Remove what an earlier run left: if the job is killed, it must not pass for its result."""
    if not _has_result(node):
        for file in Path(node.output_dir()).glob("result_*.pklz"):
            file.unlink(missing_ok=True)


def _write_job(script: Path, template: str, *, n_threads: int) -> Path:
    """Write the shell script of a job, which keeps to the threads that it asked for."""
    code = script.read_text("utf-8")
    limits = dict.fromkeys(THREAD_VARIABLES, str(n_threads))
    limit = f"import os\nos.environ.update({limits!r})\n"
    script.write_text(limit + code, "utf-8")
    job = script.with_suffix(".sh")
    command = shlex.join([sys.executable, str(script)])
    job.write_text(f"{template.strip()}\n{command}\n", "utf-8")
    return job


def _node_file(script: Path) -> Path:
    return script.with_name(f"node_{script.stem.removeprefix('pyscript_')}.pklz")


def _job_log(script: Path, number: str) -> Path | None:
    """Log of a job, where Nipype has its scheduler write it: beside its script."""
    folder = script.parent
    found = [folder / f"slurm-{number}.out", *sorted(folder.glob(f"*.[eo]{number}"))]
    return next((file for file in found if file.is_file() and file.stat().st_size), None)


def _missing_result(node: Any, script: Path, end: str, *, log: Path | None) -> list[str]:
    """Lines of a traceback if a job has ended without a result; none if there is one.

    Parameters
    ----------
    node
        Whose job it was.
    script
        That of the job; what went wrong before the node was read lies beside it.
    end
        The scheduler's word for how it ended, or empty.
    log
        What the job printed.
    """
    crash = script.with_name(f"crashdump_{script.stem.removeprefix('pyscript_')}.pklz")
    folder = Path(node.output_dir())
    # A node that failed has told so in the place of its result, and ended well for the scheduler.
    deadline = time.monotonic() + (RESULT_SECONDS if end in {"", "COMPLETED"} else 0)
    while True:
        if crash.is_file():
            return list(loadpkl(str(crash))["traceback"])
        if any(folder.glob("result_*.pklz")):
            return []
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return _ended_early(node, end, log=log)


def _ended_early(node: Any, end: str, *, log: Path | None) -> list[str]:
    """Say of a job that it ended without a result, how, and what to do."""
    text = log.read_text("utf-8", errors="replace").strip() if log and log.is_file() else ""
    said = f"; its last words: {text.splitlines()[-1].strip()}" if text else ""
    problem = ResourceError(
        f"the job of step '{node.name}' ended without a result{_in_words(end)}. It had asked for "
        f"{_mebibytes(node)} MiB and {node.n_procs} core(s){said}",
        where=str(log or node.output_dir()),
        fix="Ask for more time or memory in the plugin's sbatch_args or qsub_args if that ended "
        "it, and run again: steps that are done are kept.",
    )
    return [as_last_line(problem)]


def _in_words(end: str) -> str:
    known = {
        "TIMEOUT": "its time limit", "OUT_OF_MEMORY": "its memory ran out",
        "NODE_FAIL": "its node failed", "CANCELLED": "it was cancelled",
        "PREEMPTED": "another job took its place",
    }  # fmt: skip
    return f" ({known.get(end, 'its program ended early')}: {end})" if end else ""
