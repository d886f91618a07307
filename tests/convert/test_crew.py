"""However bytes get from file to file, they are the same: by the kernel, by hand, in parts, by one thread or four."""

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier, Event
from threading import enumerate as enumerate_threads
from typing import Any

import pytest
import torch

from ckptool.convert import crew, jobs
from ckptool.convert.crew import each, work
from ckptool.convert.jobs import Copy
from ckptool.convert.read import read
from ckptool.convert.writer import write
from ckptool.errors import Malformed, Truncated, Unreachable
from ckptool.source import File, Record
from ckptool.tensor import Plan, Span, Tensor
from tests.convert.converting import Tensors, conventional, convert_by_library, random
from tests.convert.test_archives import rezip, torch_zip


def tensors() -> Tensors:
    sizes = (1, 65_536, 65_537, 1 << 20, 20 << 20)
    return {f"n{n}": random(torch.uint8, (n,), n) for n in sizes} | {"t": random(torch.float32, (300, 200)).t()}


def interrupted(real: Callable[..., int]) -> Callable[..., int]:
    """A kernel that copies some of what it is asked for, as kernels may."""
    return lambda source, target, count, *offsets: real(source, target, min(count, 100_001), *offsets)


def failing(after: int, real: Callable[..., int]) -> Callable[..., int]:
    """A kernel that gives up: half way through a file, or at once as between some file systems."""
    done = [0]

    def call(source: int, target: int, count: int, *offsets: int) -> int:
        if done[0] >= after:
            raise OSError(18, "Invalid cross-device link")
        done[0] += 1
        return real(source, target, min(count, 1 << 20), *offsets)

    return call


KERNELS: dict[str, Any] = {
    "as it is": None,
    "missing": "missing",
    "in parts": interrupted,
    "across devices": lambda real: failing(0, real),
    "half way": lambda real: failing(7, real),
    "nothing copied": lambda real: lambda *_: 0,
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_gives_the_same_bytes(kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = conventional(tensors())
    (tmp_path / "m.bin").write_bytes(expected)  # no checksums in it: the kernel copies
    change = KERNELS[kernel]
    if change == "missing":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    elif change:
        monkeypatch.setattr(os, "copy_file_range", change(os.copy_file_range))
    assert convert_by_library(tmp_path / "m.bin", tmp_path / "m.safetensors") == expected


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("sizes", [{}, {"RUN": 1 << 16, "SMALL": 1 << 12, "BATCH": 1 << 14}])
def test_any_number_of_threads_gives_the_same_bytes(
    threads: int, sizes: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(tensors(), tmp_path / "m.ckpt")
    monkeypatch.setattr(crew, "crew_size", lambda: threads)
    for name, value in sizes.items():
        monkeypatch.setattr(jobs, name, value)
    assert convert_by_library(tmp_path / "m.ckpt", tmp_path / "m.safetensors") == conventional(tensors())


@pytest.mark.parametrize("at", [0, 1, 8 << 20, (8 << 20) - 1, (20 << 20) - 1])
def test_a_wrong_byte_in_any_part_is_found(at: int, tmp_path: Path) -> None:
    """A record of three parts, summed by whichever threads took them."""
    tensor = random(torch.uint8, (20 << 20,))
    data = bytearray(torch_zip({"t": tensor}))
    data[data.index(tensor[:64].numpy().tobytes()) + at] ^= 1
    (tmp_path / "m.ckpt").write_bytes(data)
    with pytest.raises(Malformed, match="data/0: wrong CRC"):
        convert_by_library(tmp_path / "m.ckpt", tmp_path / "m.safetensors")
    assert os.listdir(tmp_path) == ["m.ckpt"]


def test_a_write_may_stop_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, bytes(data[: max(1, len(data) // 2)]), offset))
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    torch.save(tensors(), tmp_path / "m.ckpt")
    assert convert_by_library(tmp_path / "m.ckpt", tmp_path / "m.safetensors") == conventional(tensors())


def test_a_read_may_stop_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: real(fd, [buffers[0][:100_000]], offset))
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    torch.save(tensors(), tmp_path / "m.ckpt")
    assert convert_by_library(tmp_path / "m.ckpt", tmp_path / "m.safetensors") == conventional(tensors())


def test_to_another_file_system(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "m.ckpt")
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        assert convert_by_library(tmp_path / "m.ckpt", Path(folder, "m.safetensors")) == conventional(tensors())


def test_the_progress_adds_up_to_the_bytes_of_the_tensors(tmp_path: Path) -> None:
    rezip(torch_zip(tensors()), tmp_path / "m.ckpt")
    with ExitStack() as stack:
        plan = read(tmp_path / "m.ckpt", stack)
        counts: list[int] = []
        write(plan, tmp_path / "m.safetensors", advance=counts.append)
    assert sum(counts) == plan.nbytes == sum(tensor.nbytes for tensor in tensors().values())
    assert max(counts) <= 16 << 20


def test_a_source_that_ends_too_soon_is_said_to(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(bytes(100))
    with (
        File.open(tmp_path / "short") as source,
        (tmp_path / "out").open("wb") as target,
        pytest.raises(Truncated, match="ends at byte 100"),
    ):
        work(iter([Copy(Span(Record(source, 50, 80), 0, 80), 0)]), target.fileno(), lambda _: None)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_job_that_fails_ends_the_others_early(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "crew_size", lambda: threads)
    ended, begun, done = Event(), Barrier(threads), list[int]()

    def do(job: int) -> None:
        if job < threads:
            begun.wait(60)  # a job in each thread
            if job == 0:
                raise Malformed("the first", "of them")
            assert ended.wait(60), "only stop() lets it go on"
            raise Truncated("what was cut off", "no matter")
        done.append(job)

    with pytest.raises(Malformed, match="the first"):
        each(iter(range(1000)), do, ended.set)
    assert ended.is_set()
    assert done == []
    assert [thread for thread in enumerate_threads() if thread.name == "crew"] == []


def test_without_stop_the_others_end_their_job_and_begin_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "crew_size", lambda: 2)
    begun, failed, done = Barrier(2), Event(), list[int]()

    def do(job: int) -> None:
        begun.wait(60)
        if job == 0:
            failed.set()
            raise Malformed("the first", "of them")
        failed.wait(60)
        done.append(job)

    with pytest.raises(Malformed):
        each(range(2), do)
    assert done == [1]


class Waiting:
    """Another machine that answers when it is told to stop, and then with a failure."""

    size, label = 8 << 20, "elsewhere"

    def __init__(self) -> None:
        self.asked, self.stopped = Event(), Event()

    def fileno(self) -> None:
        return None

    def expect(self, offset: int, length: int) -> None:
        self.asked.set()

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        self.asked.set()

    def check_unchanged(self) -> None:
        """Nothing was read that could have changed."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        assert self.stopped.wait(60)
        raise Truncated("elsewhere: was told to stop", "no matter")

    def stop(self) -> None:
        self.stopped.set()


class Failing(Waiting):
    """One that fails while the other is being waited for."""

    def __init__(self, other: Waiting) -> None:
        super().__init__()
        self.other = other

    def read_into(self, buffer: memoryview, offset: int) -> None:
        assert self.other.asked.wait(60)
        raise Unreachable("elsewhere: is gone", "try again later")


def test_what_waits_for_another_machine_is_ended_when_something_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "crew_size", lambda: 2)
    waiting = Waiting()
    parts: list[Waiting] = [Failing(waiting), waiting]
    tensors = (Tensor(f"t{i}", "U8", (8 << 20,), Span(Record.whole(part), 0, 8 << 20)) for i, part in enumerate(parts))
    with pytest.raises(Unreachable, match="is gone"):
        write(Plan("safetensors", tuple(tensors)), tmp_path / "m.safetensors")
    assert waiting.stopped.is_set()
    assert os.listdir(tmp_path) == []
    assert [thread for thread in enumerate_threads() if thread.name == "crew"] == []


@pytest.mark.parametrize("change", ["longer", "shorter", "same length", "touched"])
def test_a_source_that_changes_meanwhile_is_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(conventional({"w": random(torch.uint8, (200_000,))}))
    with ExitStack() as stack:
        plan = read(path, stack)
        data = path.read_bytes()
        status = path.stat()
        match change:
            case "longer":
                path.open("ab").write(b"x")
            case "shorter":
                os.truncate(path, len(data) - 1)
            case "same length":
                path.open("r+b").write(data[:-1] + b"?")
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
            case _:
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        with pytest.raises(Truncated):
            write(plan, tmp_path / "m.safetensors")
    assert os.listdir(tmp_path) == ["m.bin"]


def test_a_file_that_takes_the_sources_name_is_not_read(tmp_path: Path) -> None:
    """One open file, from the first look to the last byte."""
    path = tmp_path / "m.ckpt"
    torch.save(tensors(), path)
    with ExitStack() as stack:
        plan = read(path, stack)
        torch.save({"other": torch.ones(1)}, tmp_path / "x")
        (tmp_path / "x").replace(path)
        write(plan, tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == conventional(tensors())


def test_a_wrong_checksum_stops_a_long_copy_early(tmp_path: Path) -> None:
    large = {f"t{i:02}": random(torch.uint8, (1 << 20,), i) for i in range(8)}
    data = bytearray(torch_zip(large))
    data[data.index(large["t00"].numpy().tobytes())] ^= 1
    (tmp_path / "m.ckpt").write_bytes(data)
    with ExitStack() as stack:
        plan = read(tmp_path / "m.ckpt", stack)
        with pytest.raises(Malformed, match="data/0: wrong CRC"):
            write(plan, tmp_path / "m.safetensors")
    assert os.listdir(tmp_path) == ["m.ckpt"]
