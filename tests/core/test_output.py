"""An output appears when it is whole and not at all otherwise, with unnamed files and without."""

import os
import stat
from pathlib import Path

import pytest

from ckptool.errors import Refused, Unwritable, UsageError
from ckptool.output import Output


@pytest.fixture(params=["unnamed", "named", "no /proc"], autouse=True)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with unnamed files, one without (macOS, NFS, FUSE), and a jail in which /proc is missing."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    if request.param == "no /proc":
        monkeypatch.setattr("os.path.isdir", lambda path: not str(path).startswith("/proc") and stat_is_folder(path))
    return str(request.param)


def stat_is_folder(path: object) -> bool:
    try:
        return stat.S_ISDIR(os.stat(str(path)).st_mode)
    except OSError:
        return False


def write(path: Path, data: bytes = b"new", force: bool = False) -> None:
    with Output(path, len(data), force) as output:
        os.write(output.fd, data)


def test_it_appears_when_it_is_whole(tmp_path: Path, system: str) -> None:
    path = tmp_path / "out"
    with Output(path, 3, force=False) as output:
        os.write(output.fd, b"new")
        assert not path.exists()
        assert len(os.listdir(tmp_path)) == (0 if system == "unnamed" else 1)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [Refused("a", "b"), KeyboardInterrupt(), SystemExit(1), ValueError()])
def test_any_error_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    def fail() -> None:
        with Output(tmp_path / "out", 3, force=False) as output:
            os.write(output.fd, b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert os.listdir(tmp_path) == []


def test_an_error_of_the_system_is_told_as_unwritable(tmp_path: Path) -> None:
    def fail() -> None:
        with Output(tmp_path / "out", 3, force=False):
            raise OSError(28, "No space left on device")

    with pytest.raises(Unwritable, match="No space left on device"):
        fail()
    assert os.listdir(tmp_path) == []


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with Output(path, 3, force=True) as output:
        os.write(output.fd, b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out"]


def test_whoever_reads_the_old_file_goes_on_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write(path, force=True)
        assert reader.read() == b"old"


@pytest.mark.parametrize("kind", ["file", "dangling link", "folder"])
def test_what_appears_meanwhile_is_not_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "out"

    def race() -> None:
        with Output(path, 3, force=False) as output:
            os.write(output.fd, b"new")
            if kind == "file":
                path.write_bytes(b"other")
            elif kind == "folder":
                path.mkdir()
            else:
                path.symlink_to(tmp_path / "nowhere")

    with pytest.raises(UsageError, match="exists already"):
        race()
    assert os.listdir(tmp_path) == ["out"]
    assert kind != "file" or path.read_bytes() == b"other"


def test_a_folder_that_vanishes_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()

    def vanish() -> None:
        with Output(tmp_path / "d" / "out", 3, force=False):
            for name in os.listdir(tmp_path / "d"):
                os.unlink(tmp_path / "d" / name)
            (tmp_path / "d").rmdir()

    with pytest.raises(Unwritable):
        vanish()
    with pytest.raises(Unwritable):
        write(tmp_path / "d" / "out")


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write(tmp_path / "out")
        write(tmp_path / "out", force=True)
    finally:
        os.umask(old)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "stem", ["a" * 255, "é" * 127, "模" * 85, "😀" * 63], ids=["1 byte", "2 bytes", "3 bytes", "4 bytes"]
)
@pytest.mark.parametrize("force", [False, True])
def test_the_longest_name_that_the_system_allows(stem: str, force: bool, tmp_path: Path) -> None:
    write(tmp_path / stem, force=force)
    assert os.listdir(tmp_path) == [stem]


def test_descriptors_are_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        write(tmp_path / f"out{number}")
        with pytest.raises(UsageError):
            write(tmp_path / f"out{number}")
        write(tmp_path / f"out{number}", force=True)
    assert len(os.listdir("/proc/self/fd")) == before
