"""What the process of one file may use, and what it may not reach: applied by itself, before it looks at the file."""

import ctypes
import os
import resource
import signal
from pathlib import Path

from ckptool.sanitize.job import Job

MEMORY = 1 << 30
"""Bytes beyond what the process begins with, where the policy says nothing and no networks run."""
OUTPUT_FACTOR, OUTPUT_MORE = 16, 64 << 20
"""A source may grow that much: tied tensors are written one by one, a deflated archive is unpacked."""
SECONDS, PER_SECOND = 300, 4 << 20
"""Time for any file, and bytes for each further second."""
SLOWER = 8
"""So much longer for each byte that comes from another machine."""
DENOISE = 20
"""So much longer when networks run."""
FILES = 4096

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38

# Variables that a child gets; everything else may be a credential.
ENVIRONMENT = frozenset(
    {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME"}
)


def environment() -> dict[str, str]:
    """The environment of children: no credentials, no home, and numpy's own threads not started."""
    kept = {name: value for name, value in os.environ.items() if name in ENVIRONMENT}
    if "PYTHONPATH" in kept:  # children stand in another folder
        kept["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, kept["PYTHONPATH"].split(os.pathsep)))
    return kept | {
        "HOME": "/nonexistent",
        "HF_HUB_OFFLINE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def leave_network() -> bool:
    """Move this process and all its children into a network of their own, with nothing in it.

    As root at once; else inside a user namespace, where the system allows those. False where neither can be had.
    """
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    if unshare is None:
        return False
    user, group = os.geteuid(), os.getegid()
    if unshare(CLONE_NEWNET) == 0:
        return True
    if unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    try:  # without these, files of this user would look like nobody's
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError:
        pass  # owned by nobody, it still reads and writes what it could before
    return True


def adopt() -> None:
    """Processes whose own parent ends become children of this one, whatever group they have gone to."""
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """No child outlives the process that waits for it, and none gains rights by running a program."""
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def restrict(job: Job, seconds: int) -> None:
    """Set every limit on this process. What goes beyond is killed by the kernel, or fails to allocate."""
    policy = job.policy
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_NOFILE, FILES)
    limit(resource.RLIMIT_CPU, seconds * max(1, len(os.sched_getaffinity(0)) if AFFINITY else 1))
    limit(resource.RLIMIT_FSIZE, policy.max_output or OUTPUT_FACTOR * source_size(job) + OUTPUT_MORE)
    memory = policy.max_memory or (None if policy.verify == "denoise" else MEMORY)
    if memory is not None:
        limit(resource.RLIMIT_DATA, data_size() + memory)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it


AFFINITY = hasattr(os, "sched_getaffinity")


def limit(kind: int, most: int) -> None:
    """Lower one limit; one that is lower already stays."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    # The hard limit of CPU time is a second later, so that the soft one is what is told.
    resource.setrlimit(kind, (most, most + 1 if kind == resource.RLIMIT_CPU and hard != most else most))


def source_size(job: Job) -> int:
    """Of a file, or of all that lie beside an index."""
    path = job.path
    if not isinstance(path, Path):
        return job.size or 0
    if not path.name.endswith(".index.json"):
        return path.stat().st_size
    return sum(entry.stat().st_size for entry in os.scandir(path.parent) if entry.is_file())


def data_size() -> int:
    """Bytes of private memory that this process has mapped: what RLIMIT_DATA counts."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    line = next((line for line in text.splitlines() if line.startswith("VmData:")), "VmData: 0 kB")
    return int(line.split()[1]) << 10


def seconds_for(job: Job) -> int:
    """How long a file may take."""
    if job.policy.timeout is not None:
        return job.policy.timeout
    try:
        plain = SECONDS + source_size(job) * (1 if isinstance(job.path, Path) else SLOWER) // PER_SECOND
    except OSError:
        plain = SECONDS
    return plain * (DENOISE if job.policy.verify == "denoise" else 1)
