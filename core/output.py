"""A file that appears under its name when it is complete, and not at all otherwise."""

import fcntl
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ckptool.errors import CkptoolError, Unwritable, UsageError
from ckptool.text import escape, size

MODE = 0o666
BEGIN, END = ".ckptool-", ".tmp"
LEFT = re.compile(r"\.ckptool-[0-9a-f]{12}\.tmp")
"""The temporary names of outputs."""


class Output:
    """Context of one output file: unnamed while it is written, fsync, then linked or renamed into place.

    Where the file system can, the file has no name until it is whole (O_TMPFILE), so that not even a killed
    process leaves anything behind; elsewhere it has a temporary name in the same folder, and is locked (flock) while
    somebody is at it, so that `remove_left` can tell what a killed process left.
    """

    def __init__(self, path: Path, nbytes: int, force: bool) -> None:
        self.path = path
        self.force = force
        self.fd = -1
        self._temporary: Path | None = None
        check_space(path, nbytes)

    def __enter__(self) -> "Output":
        try:
            self.fd = self._open()
        except OSError as error:
            raise unwritable(self.path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                os.fsync(self.fd)
                self._publish()
            elif isinstance(error, OSError):
                raise unwritable(self.path, error) from error
        except OSError as failure:
            raise unwritable(self.path, failure) from failure
        finally:
            os.close(self.fd)
            if self._temporary is not None:
                self._temporary.unlink(missing_ok=True)

    def _open(self) -> int:
        if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
            try:
                fd = os.open(self.path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, MODE)
            except OSError:
                pass  # this file system has no unnamed files
            else:
                lock(fd)  # it gets a temporary name when it takes the place of another file
                return fd
        while True:
            self._temporary = self._sibling()
            fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
            if lock(fd) and os.path.lexists(self._temporary):
                return fd
            os.close(fd)  # in the moment before the lock it was taken for one that was left

    def _sibling(self) -> Path:
        return self.path.with_name(f"{BEGIN}{os.urandom(6).hex()}{END}")  # whatever the length of the name

    def _publish(self) -> None:
        """Give the file its name in one step; without `force` an existing one is never replaced."""
        if self._temporary is None:
            name = self._sibling() if self.force else self.path
            try:
                self._link(name)
            except FileExistsError:
                raise exists(self.path) from None
            if not self.force:
                self._sync_folder()
                return
            self._temporary = name
        elif not self.force and os.path.lexists(self.path):
            raise exists(self.path)
        os.replace(self._temporary, self.path)
        self._temporary = None
        self._sync_folder()

    def _link(self, name: Path) -> None:
        # With a folder's descriptor Python calls linkat(AT_SYMLINK_FOLLOW); without one, link(), which
        # would link the entry of /proc itself.
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.link(f"/proc/self/fd/{self.fd}", name.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def lock(fd: int) -> bool:
    """Say that somebody is at this file; False when another process says so. Where there are no locks, nobody can."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def remove_left(folder: Path) -> None:
    """Remove the temporary files below a folder that nobody is at: of processes that were killed."""
    for parent, _, names in os.walk(folder):
        for name in filter(LEFT.fullmatch, names):
            with suppress(OSError):
                remove_if_left(Path(parent, name))


def remove_if_left(path: Path) -> None:
    """Raises OSError where it cannot be told whether somebody is at it: it stays there then."""
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    finally:
        os.close(fd)


def write_at(target: int, data: memoryview | bytes, offset: int) -> None:
    """All of `data` at `offset`: a write may stop short."""
    view = memoryview(data)
    while view:
        count = os.pwrite(target, view, offset)
        view, offset = view[count:], offset + count


def exists(path: Path) -> UsageError:
    return UsageError(f"{escape(str(path))}: exists already", "give another name, or --force to replace it")


def unwritable(path: Path, error: OSError) -> CkptoolError:
    return Unwritable(
        f"{escape(str(path))}: cannot be written: {error.strerror or error}", "make room, or write to another folder"
    )


def check_space(path: Path, nbytes: int) -> None:
    """Refuse before the first byte when the file system says that the output cannot fit."""
    try:
        free = os.statvfs(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    available = free.f_bavail * free.f_frsize
    # File systems that keep no count (some network ones) report no blocks at all.
    if free.f_blocks and nbytes > available:
        raise Unwritable(
            f"{escape(str(path))}: needs {size(nbytes)}, but its file system has {size(available)} free",
            "make room, or write to another folder",
        )
