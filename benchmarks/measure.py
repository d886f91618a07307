"""Runs a command and says how long it took, how much memory it held at most and how many bytes it read."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one process."""

    seconds: float
    cpu: float
    """Seconds of all its threads, in its own code and in the kernel: steadier than time on a machine that is busy."""
    peak: int
    """Bytes of its largest resident set, as wait4 reports it: never less than what its parent held when it began."""
    read: int
    """Bytes that it asked the kernel for, its own modules included; those that the kernel copies do not count."""


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the runs of one command, and the extremes of its time."""

    seconds: float
    cpu: float
    fastest: float
    slowest: float
    peak: int
    read: int


# Python caches what it compiles, as it does for a package that pip installed.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Failed(Exception):
    """A command did not do what it was measured for."""


def measure(command: list[str], says: str = "") -> Measured:
    """Run a command to its end. Raises Failed unless it exits with 0 and prints `says`."""
    with tempfile.TemporaryFile() as printed:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT
        )
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            seconds = time.perf_counter() - start
            read = bytes_read(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        text = printed.read().decode(errors="replace")
    if process.returncode != 0 or says not in text:
        raise Failed(f"exit code {process.returncode} of {' '.join(command)}\n{text[-2000:]}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, read)


def bytes_read(pid: int) -> int:
    """What a process that has ended, but was not waited for, has read."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def summarise(runs: Iterable[Measured]) -> Result:
    """The medians of runs of the same command."""
    runs = list(runs)
    seconds = sorted(run.seconds for run in runs)
    cpu, peak, read = (median(values) for values in zip(*((run.cpu, run.peak, run.read) for run in runs), strict=True))
    return Result(median(seconds), cpu, seconds[0], seconds[-1], int(peak), int(read))
