"""Two runs may meet in one folder: an output is made by one process at a time, and no lock outlives who has it."""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

from ckptool.sanitize.job import Job
from ckptool.sanitize.names import RECEIPT
from ckptool.sanitize.policy import Policy
from ckptool.sanitize.process.lock import lock_of, locked, sweep
from tests.convert.converting import ckptool
from tests.sanitize.sanitizing import children, embedding, files_in, lora, sanitize, start, write


def job_of(up: Path, out: Path, name: str) -> Job:
    path = up / f"{name}.pt"
    return Job(path, str(path), path.name, out, str(out), f"{name}.safetensors", True, Policy())


def test_runs_that_meet_do_every_file_and_tear_none(tmp_path: Path) -> None:
    """With --force each run makes every output, so each stands in the way of the others."""
    count = 40
    up, out = write(tmp_path / "up", {f"{i:02}.pt": embedding() for i in range(count)}), tmp_path / "out"
    alone = sanitize(up, tmp_path / "alone")
    sanitize(up, out)
    runs = [start(up, out, "--force") for _ in range(3)]
    for run in runs:
        printed, err = run.communicate(timeout=60)
        assert run.returncode == 0, err.decode()
        assert Counter(json.loads(line)["action"] for line in printed.splitlines()) == {"released": count}
    outputs = {f"{i:02}.safetensors" for i in range(count)}
    assert files_in(out) == outputs | {name + RECEIPT for name in outputs} | {"SHA256SUMS"}
    assert ckptool("receipt", "verify", out).code == 0
    assert (out / "SHA256SUMS").read_bytes() == (tmp_path / "alone" / "SHA256SUMS").read_bytes()
    assert alone.ran.code == 0


def test_a_run_waits_for_the_output_that_another_process_makes(tmp_path: Path) -> None:
    up, out = write(tmp_path / "up", {"a.pt": embedding(), "b.pt": embedding()}), tmp_path / "out"
    out.mkdir()
    (out / "SHA256SUMS").touch()
    with locked(job_of(up, out, "a"), lambda _: False) as lock:
        assert lock is not None
        run = start(up, out, "--workers", 2)
        assert run.stdout is not None
        assert json.loads(run.stdout.readline())["path"].endswith("b.pt")
        assert "a.safetensors" not in files_in(out)
    printed, _ = run.communicate(timeout=60)
    assert json.loads(printed)["path"].endswith("a.pt")
    assert run.returncode == 0


def test_an_interrupt_ends_a_run_that_waits(tmp_path: Path) -> None:
    up, out = write(tmp_path / "up", {"a.pt": embedding()}), tmp_path / "out"
    out.mkdir()
    (out / "SHA256SUMS").touch()
    with locked(job_of(up, out, "a"), lambda _: False):
        run = start(up, out)
        while not list(children(run.pid)):
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert b"Traceback" not in err


def test_what_a_killed_process_left_locks_nothing(tmp_path: Path) -> None:
    up, out = write(tmp_path / "up", {"a.pt": lora()}), tmp_path / "out"
    out.mkdir()
    pid = os.fork()
    if pid == 0:
        with locked(job_of(up, out, "a"), lambda _: False):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert files_in(out) == {lock_of(job_of(up, out, "a")).name}
    (out / "SHA256SUMS").touch()
    assert sanitize(up, out).actions == {"a.pt": "released"}
    assert files_in(out) == {"a.safetensors", "a.safetensors" + RECEIPT, "SHA256SUMS"}


def test_a_lock_that_somebody_has_is_not_swept(tmp_path: Path) -> None:
    mine, other = job_of(tmp_path, tmp_path, "mine"), job_of(tmp_path, tmp_path, "other")
    lock_of(other).touch()
    with locked(mine, lambda _: False):
        sweep(tmp_path)
        assert files_in(tmp_path) == {lock_of(mine).name}
        with locked(mine, lambda _: False) as second:
            assert second is None
    assert files_in(tmp_path) == set()
