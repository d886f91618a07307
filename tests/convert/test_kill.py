"""Whenever a conversion is killed, the destination is absent or complete, and nothing else is left."""

import fcntl
import os
import pty
import random
import select
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from struct import pack

import pytest

from fixtures.tensors import Tensor, noise
from fixtures.torchfile import save_zip
from tests.convert.converting import ckptool

CKPTOOL = str(Path(sysconfig.get_path("scripts")) / "ckptool")
KILLS = 30
STARTED = 1 << 20
"""Bytes after which a conversion is surely under way."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where there is room: on a slow disk most of the time would be that of its flushes."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30
    with tempfile.TemporaryDirectory(dir=memory if roomy else tmp_path_factory.mktemp("kill")) as folder:
        yield Path(folder)


@pytest.fixture
def folder(root: Path) -> Iterator[Path]:
    """An empty one for the output of a test."""
    with tempfile.TemporaryDirectory(dir=root) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def source(root: Path) -> Path:
    """100 MB in tensors that the kernel copies, that are gathered, and many small ones."""
    path = root / "m.ckpt"
    large = {f"large.{i}": noise("F32", (1 << 20,), f"large{i}") for i in range(20)}
    turned = noise("F32", (2000, 2000), "turned")
    small = {f"small.{i}": noise("F32", (100,), f"small{i}") for i in range(500)}
    save_zip({"state_dict": large | {"turned": Tensor(turned.storage, (2000, 2000), (1, 2000))} | small}, path)
    return path


@pytest.fixture(scope="module")
def whole(source: Path) -> bytes:
    assert ckptool("convert", source, source.with_name("whole.safetensors")).code == 0
    return source.with_name("whole.safetensors").read_bytes()


@pytest.fixture(scope="module")
def duration(source: Path) -> float:
    """Seconds that a conversion takes here and now, so that the moments of death fall into all of its parts."""
    begin = time.monotonic()
    assert start(source, source.with_name("timed.safetensors")).wait() == 0
    return time.monotonic() - begin


def start(source: Path, target: Path, *options: str, **streams: int) -> "subprocess.Popen[bytes]":
    command = [CKPTOOL, "convert", str(source), str(target), *options]
    return subprocess.Popen(command, **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams))  # type: ignore[call-overload]


def wait_until_under_way(process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None and open_size(process) < STARTED:
        time.sleep(0.003)


def open_size(process: "subprocess.Popen[bytes]") -> int:
    """Size of the largest file without a name that a process holds open: the output that is being written."""
    sizes = [0]
    try:
        for entry in Path(f"/proc/{process.pid}/fd").iterdir():
            if "#" in os.readlink(entry) or "deleted" in os.readlink(entry) or ".tmp" in os.readlink(entry):
                sizes.append(entry.stat().st_size)
    except OSError:
        pass
    return max(sizes)


def test_killed_at_any_moment_it_leaves_the_whole_or_nothing(
    source: Path, whole: bytes, duration: float, folder: Path
) -> None:
    status, content = source.stat(), source.read_bytes()
    target = folder / "out.safetensors"
    chance = random.Random(20240229)
    outcomes = []
    for index in range(KILLS):
        process = start(source, target)
        if index % 2:  # half of them while bytes flow, which is the shorter part of a run
            wait_until_under_way(process)
            time.sleep(chance.uniform(0, 0.4 * duration))
        else:
            time.sleep(chance.uniform(0, 1.2 * duration))
        process.kill()
        process.communicate()
        left = os.listdir(folder)
        assert left in ([], [target.name])
        if left:
            assert target.read_bytes() == whole
            target.unlink()
        outcomes.append((process.returncode, bool(left)))
    assert (source.stat().st_mtime_ns, source.stat().st_size) == (status.st_mtime_ns, status.st_size)
    assert source.read_bytes() == content
    assert any(code == -signal.SIGKILL and not left for code, left in outcomes)


def test_killed_while_it_replaces_a_file_it_leaves_the_old_or_the_new(
    source: Path, whole: bytes, duration: float, folder: Path
) -> None:
    target = folder / "out.safetensors"
    chance = random.Random(7)
    for _ in range(6):
        target.write_bytes(b"old")
        process = start(source, target, "--force")
        wait_until_under_way(process)
        time.sleep(chance.uniform(0, 0.4 * duration))
        process.kill()
        process.communicate()
        assert target.read_bytes() in (b"old", whole)
        others = set(os.listdir(folder)) - {target.name}
        assert not others


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_interrupted_it_leaves_nothing(number: signal.Signals, code: int, source: Path, folder: Path) -> None:
    for options in ((), ("--max-shard-size", "20MB")):
        process = start(source, folder / "out.safetensors", *options)
        wait_until_under_way(process)
        process.send_signal(number)
        out, err = process.communicate()
        assert process.returncode == code, err
        assert os.listdir(folder) == []
        assert b"Traceback" not in err
        assert out == b""
        if number == signal.SIGINT:
            assert [line.split(b":")[0] for line in err.strip().splitlines()] == [b"error", b"hint"]


def test_shards_that_are_killed_leave_no_index_to_what_is_not_there(
    source: Path, duration: float, folder: Path
) -> None:
    chance = random.Random(11)
    for _ in range(6):
        process = start(source, folder / "out.safetensors", "--max-shard-size", "20MB", "-q")
        wait_until_under_way(process)
        time.sleep(chance.uniform(0, 0.5 * duration))
        process.kill()
        process.communicate()
        left = os.listdir(folder)
        assert all(name.startswith("out") for name in left)
        if "out.safetensors.index.json" in left:
            assert ckptool("convert", folder / "out.safetensors.index.json", "--dry-run").code == 0
        for name in left:
            (folder / name).unlink()


def on_a_terminal(*args: str) -> tuple[int, bytes]:
    """Run with stderr on a terminal: the exit code and what the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, pack("4H", 24, 80, 0, 0))  # a new terminal has no size, and gets no bar
    process = subprocess.Popen([CKPTOOL, *args], stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    got = b""
    while True:
        ready, _, _ = select.select([ours], [], [], 60)
        try:
            data = os.read(ours, 4096) if ready else b""
        except OSError:  # the other end is closed
            data = b""
        if not data:
            break
        got += data
    os.close(ours)
    return process.wait(), got


def test_a_bar_in_bytes_is_drawn_on_a_terminal_only(source: Path, folder: Path) -> None:
    code, got = on_a_terminal("convert", str(source), str(folder / "a.safetensors"))
    assert code == 0
    assert b"a.safetensors" in got
    assert b"B/s" in got
    assert b"%" in got
    process = start(source, folder / "b.safetensors")
    _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize("option", ["--no-progress", "-q"])
def test_the_bar_can_be_left_out(option: str, source: Path, folder: Path) -> None:
    assert on_a_terminal("convert", str(source), str(folder / "a.safetensors"), option) == (0, b"")
