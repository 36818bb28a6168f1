# SPDX-License-Identifier: MIT
"""Limits of the control groups that this process is in: those of containers and of jobs.

A limit may stand at any level between the process's own group and the root, and versions 1 and 2
may be mounted side by side. So each level that can be seen is read, and the least counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Limits beyond this are "no limit" in the files of version 1.
UNLIMITED_BYTES = 2**60


@dataclass(frozen=True)
class Mount:
    """Where a hierarchy of control groups is mounted.

    Parameters
    ----------
    controllers
        Those of version 1, such as ``memory``; empty for version 2, which has all in one.
    top
        Group that is seen at the mount point: in a container it is seldom the root.
    point
        Folder.
    """

    controllers: frozenset[str]
    top: str
    point: Path


def memory_limits(proc: Path = Path("/proc/self"), root: Path = Path("/")) -> list[int]:
    """Limits of memory in bytes, of all levels that have one.

    Parameters
    ----------
    proc
        Folder of the process in ``/proc``.
    root
        Folder that mount points are under.
    """
    found = []
    for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
        for folder in _folders("memory", proc, root):
            text = _read(folder / name)
            if text.isdigit() and int(text) < UNLIMITED_BYTES:
                found.append(int(text))
    return found


def core_limits(proc: Path = Path("/proc/self"), root: Path = Path("/")) -> list[float]:
    """Limits of CPU time in cores (a quota over its period), of all levels that have one.

    Parameters
    ----------
    proc, root
        As in `memory_limits`.
    """
    found = []
    for folder in _folders("cpu", proc, root):
        pair = _read(folder / "cpu.max").split() or [
            _read(folder / "cpu.cfs_quota_us"),
            _read(folder / "cpu.cfs_period_us"),
        ]
        if all(text.isdigit() and int(text) > 0 for text in pair):
            found.append(int(pair[0]) / int(pair[1]))
    return found


def _folders(controller: str, proc: Path, root: Path) -> Iterator[Path]:
    """Folders of the groups that this process is in, from its own up to the top."""
    groups = _groups(proc)
    for mount in _mounts(proc, root):
        own = groups.get(controller if mount.controllers else "", "")
        if not own or (mount.controllers and controller not in mount.controllers):
            continue
        # What lies elsewhere is not to be seen from here: a container's own group is its top.
        inside = own.removeprefix(mount.top) if mount.top != "/" else own
        folder = mount.point / inside.strip("/") if _is_below(own, mount.top) else mount.point
        yield from (level for level in (folder, *folder.parents) if _is_in(level, mount.point))


def _is_below(group: str, top: str) -> bool:
    return ".." not in group and (top == "/" or f"{group}/".startswith(f"{top}/"))


def _is_in(folder: Path, point: Path) -> bool:
    return folder == point or point in folder.parents


def _groups(proc: Path) -> dict[str, str]:
    """Group of the process by controller of version 1; under the empty name, of version 2."""
    groups: dict[str, str] = {}
    for line in _read(proc / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        groups |= dict.fromkeys(controllers.split(","), group)
    return groups


def _mounts(proc: Path, root: Path) -> Iterator[Mount]:
    for line in _read(proc / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        if kind in {"cgroup", "cgroup2"}:
            controllers = options.split()[-1].split(",") if kind == "cgroup" else []
            top, point = before.split()[3:5]
            yield Mount(frozenset(controllers), top, root / point.lstrip("/"))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
