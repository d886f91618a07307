"""Watches a call for what no interpretation of a file may do: touch anything, take long, take much memory."""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS = 10.0
"""Processor time of one input."""
FORBIDDEN = (
    "import", "exec", "compile", "code.__new__", "function.__new__", "pickle.", "marshal.", "subprocess.", "socket.",
    "ctypes.", "shutil.", "urllib.", "http.", "ftplib.", "smtplib.", "sqlite3.", "webbrowser.", "pty.", "cpython.run_",
    "builtins.input", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.kill", "os.remove",
    "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.truncate", "os.symlink", "os.putenv",
)  # fmt: skip
"""Beginnings of audit events."""


class Touched(BaseException):
    """The input made the program touch something; no `except Exception` can hide it."""


class TookLong(BaseException):
    """The input cost more than SECONDS of processor time."""


class _State:
    armed = False
    readable: tuple[str, ...] | None = ()
    """Paths that may be opened for reading; None allows all, as tests that convert real files need."""
    events: list[str] | None = None
    """Where events are kept instead of raised."""


def _hook(name: str, args: tuple[object, ...]) -> None:
    if not _State.armed:
        return
    if name == "open":
        allowed = _State.readable is None and not writes(args)
        wrong = not allowed
    else:
        wrong = name.startswith(FORBIDDEN)
    if wrong:
        _report(f"{name} {args!r:.300}")


def writes(args: tuple[object, ...]) -> bool:
    """Whether an `open` event asks for more than reading."""
    flags = args[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def _report(event: str) -> None:
    if _State.events is None:
        _State.armed = False
        raise Touched(event)
    _State.events.append(event)


def _alarm(_: int, frame: FrameType | None) -> None:
    raise TookLong(f"more than {SECONDS} s of processor time, in {frame}")


def install() -> None:
    """Add the hook, once for a process: audit hooks can't be removed."""
    if not getattr(sys, "_ckptool_fuzz_hook", False):
        sys._ckptool_fuzz_hook = True  # type: ignore[attr-defined]
        warm()
        sys.addaudithook(_hook)


def warm() -> None:
    """Load what is loaded lazily, so that an import in a guarded call is the file's doing."""
    import numpy.lib.stride_tricks  # noqa: F401

    import ckptool.cli
    import ckptool.convert.command
    import ckptool.convert.folders
    import ckptool.convert.scan_command
    import ckptool.convert.torch_legacy  # noqa: F401

    for codec in ("raw-unicode-escape", "unicode-escape", "latin1", "ascii", "utf-8", "cp437"):
        b"a".decode(codec).encode(codec)


@contextmanager
def guarded(readable: tuple[str, ...] | None = (), events: list[str] | None = None) -> Iterator[None]:
    """Forbid what FORBIDDEN says and bound the processor time; `events` collects instead of raising Touched."""
    install()
    old = signal.signal(signal.SIGVTALRM, _alarm)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    _State.readable, _State.events, _State.armed = readable, events, True
    try:
        yield
    finally:
        _State.armed = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, old)


def limit_memory(more: int) -> None:
    """Let the process grow by `more` bytes of address space and no further: beyond, MemoryError is a failure."""
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.getrlimit(resource.RLIMIT_AS)[1]))
