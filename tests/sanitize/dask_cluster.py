"""A scheduler and workers of Dask as processes of their own, as they run on the machines of a cluster."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

LOCAL = ("--host", "127.0.0.1", "--no-dashboard")
SCHEDULER = "from distributed.cli.dask_scheduler import main; main()"
WORKER = "from distributed.cli.dask_worker import main; main()"
OTHER_VERSION = "import ckptool; ckptool.__version__ = '0.0.1'; " + WORKER
NO_CKPTOOL = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ckptool":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
{WORKER}
"""


@dataclass(slots=True)
class Dask:
    """The processes, and where they write what they say."""

    folder: Path
    address: str = ""
    scheduler: "subprocess.Popen[bytes] | None" = None
    workers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def start(self, program: str, *options: str) -> "subprocess.Popen[bytes]":
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        with log.open("wb") as file:
            command = [sys.executable, "-c", program, *options]
            return subprocess.Popen(
                command, stdout=file, stderr=file, cwd=self.folder, env=os.environ | {"HF_TOKEN": "hf_secret"}
            )

    def start_scheduler(self) -> None:
        self.scheduler = self.start(SCHEDULER, *LOCAL, "--port", "0", "--no-show")
        self.address = waited_for(self.folder / "0.log", r"Scheduler at:\s+(tcp://127\.0\.0\.1:\d+)")

    def start_worker(self, program: str = WORKER, threads: int = 1) -> "subprocess.Popen[bytes]":
        """One without a nanny, so that the process that was started is the one that works."""
        options = ("--no-nanny", "--nthreads", str(threads), "--local-directory", str(self.folder))
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        self.workers.append(self.start(program, self.address, *LOCAL, *options))
        waited_for(log, r"(Registered to)")
        return self.workers[-1]

    def stop(self) -> None:
        for process in (*self.workers, *([self.scheduler] if self.scheduler else [])):
            with suppress(OSError):
                process.send_signal(signal.SIGKILL)
            process.wait()


def waited_for(log: Path, pattern: str) -> str:
    """What a process says of itself when it is ready."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = re.search(pattern, log.read_text())
        if found is not None:
            return found[1]
        time.sleep(0.02)
    raise AssertionError(log.read_text())


@contextmanager
def dask(folder: Path, workers: int) -> Iterator[Dask]:
    folder.mkdir()
    cluster = Dask(folder)
    try:
        cluster.start_scheduler()
        for _ in range(workers):
            cluster.start_worker()
        yield cluster
    finally:
        cluster.stop()
