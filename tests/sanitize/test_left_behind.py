"""Without unnamed files a kill leaves a temporary one behind: the next run takes it away, and no other."""

import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptool.output import Output, remove_left, write_at
from tests.sanitize.sanitizing import embedding, files_in, sanitize, start, write

# Read by every Python that is started: the system has no unnamed files, and what a file's process wrote stays unsynced.
SITE = "import os, sys, time\nos.__dict__.pop('O_TMPFILE', None)\n"
HANGING = "if 'ckptool.sanitize.process.server' in sys.orig_argv:\n    os.fsync = lambda fd: time.sleep(600)\n"


def until(there: Callable[[], bool]) -> None:
    for _ in range(3000):
        if there():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")


def temporary(folder: Path) -> list[Path]:
    return sorted(folder.rglob(".ckptool-*.tmp"))


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    up = write(tmp_path / "up", {"a.pt": embedding(), "deep/b.pt": embedding()})
    write(tmp_path / "site", {"sitecustomize.py": (SITE + HANGING).encode()})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    out = tmp_path / "out"
    run = start(up, out, "--workers", "2")
    try:
        until(lambda: len(temporary(out)) == 2 and all(map(is_locked, temporary(out))))
        remove_left(out)
        assert len(temporary(out)) == 2, "somebody is at them"
    finally:
        run.send_signal(signal.SIGKILL)
        run.communicate()
    until(lambda: not any(map(is_locked, temporary(out))))
    assert len(temporary(out)) == 2
    write(tmp_path / "site", {"sitecustomize.py": SITE.encode()})
    done = sanitize(up, out)
    assert set(done.actions.values()) == {"released"}
    names = {f"{name}.safetensors{ending}" for name in ("a", "deep/b") for ending in ("", ".receipt.json")}
    assert files_in(out) == names | {"SHA256SUMS"}


@pytest.mark.parametrize("unnamed", [True, False])
def test_an_output_that_is_being_written_stays(unnamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        assert len(temporary(tmp_path)) == 1
        remove_left(tmp_path)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    (tmp_path / "m").write_bytes(b"old")
    with Output(tmp_path / "m", 3, force=True) as output:
        remove_left(tmp_path)
        write_at(output.fd, b"new", 0)
    assert files_in(tmp_path) == {"m"}
    assert (tmp_path / "m").read_bytes() == b"new"


def test_only_files_of_that_name_are_removed(tmp_path: Path) -> None:
    left = [".ckptool-0123456789ab.tmp", "deep/.ckptool-ffffffffffff.tmp"]
    others = [".ckptool-0123456789.tmp", ".ckptool-0123456789ab.lock", "x.ckptool-0123456789ab.tmp", "m.tmp", "model"]
    write(tmp_path, dict.fromkeys([*left, *others], b"x"))
    (tmp_path / ".ckptool-00000000000a.tmp").symlink_to(tmp_path / "model")
    (tmp_path / ".ckptool-00000000000b.tmp").mkdir()
    os.mkfifo(tmp_path / ".ckptool-00000000000c.tmp")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "deep")
    remove_left(tmp_path)
    assert files_in(tmp_path) == {*others, ".ckptool-00000000000a.tmp"}
    assert (tmp_path / ".ckptool-00000000000c.tmp").is_fifo()


def test_one_that_is_taken_for_a_leftover_in_its_first_moment_gets_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    real, swept = fcntl.flock, [False]

    def flock(fd: int, how: int) -> None:
        if not swept[0]:
            swept[0] = True
            remove_left(tmp_path)
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with Output(tmp_path / "m", 3, force=False) as output:
        write_at(output.fd, b"new", 0)
    assert swept == [True]
    assert files_in(tmp_path) == {"m"}
