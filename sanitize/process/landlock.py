"""What a process may open from now on, by Landlock: a Linux kernel's own rules, which need no rights to set.

Source: the kernel's Documentation/userspace-api/landlock.rst. An older kernel knows fewer rights, or none at all.
"""

import ctypes
import os
import struct
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls, by the same numbers on every architecture."""
VERSION, BENEATH = 1, 1
EXECUTE, WRITE, READ, LIST = 1, 2, 4, 8
RIGHTS = (0, (1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1)
"""Of files, by the version of the kernel's interface; the last holds for all that come after."""
TCP, SIGNALS = 3, 3
"""Bind and connect from version 4 on; abstract sockets and signals to processes outside from version 6 on."""
CAPABILITIES, OVER_FILES = 0x20080522, 0b1111
"""Version 3 of the call; to change owners, and to pass over permissions and owners of files."""
SYSTEM = ("/usr", "/lib", "/lib64", "/proc", "/sys", "/etc/ld.so.cache", "/etc/localtime", "/nix/store")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


def version() -> int:
    """Of the kernel's interface; 0 where there is none."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "syscall", None)
    found: int = call(CREATE_RULESET, None, 0, VERSION) if call is not None and sys.platform == "linux" else 0
    return max(found, 0)


def confine(readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Let this process open what is below these folders and what Python itself needs, and no other file.

    No TCP either, and no signal to another process, where the kernel knows these. False where it knows none of it.
    """
    known = version()
    if not known:
        return False
    every = RIGHTS[min(known, len(RIGHTS) - 1)]
    rules = struct.pack("=QQQ", every, TCP if known >= 4 else 0, SIGNALS if known >= 6 else 0)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    ruleset = called(CREATE_RULESET, rules, size, 0)
    try:
        for path in (*map(Path, SYSTEM), *python(), *readable):
            allow(ruleset, path, READ | LIST)
        for path in map(Path, DEVICES):
            allow(ruleset, path, READ | WRITE)
        for path in writable:
            allow(ruleset, path, every & ~EXECUTE)
        called(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


@cache
def python() -> frozenset[Path]:
    """Where modules are imported from, of an editable install too: looked up once, before any process of a file is."""
    paths = [getattr(module, "__path__", ()) for module in list(sys.modules.values())]
    folders = {path for some in paths if isinstance(some, list) for path in some}
    folders |= {path for path in sys.path if path} | {sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib")}
    return frozenset(Path(folder) for folder in folders if isinstance(folder, str))


def allow(ruleset: int, path: Path, rights: int) -> None:
    """Below a folder, or for a file; what is not there needs no rule."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            rights &= READ | WRITE
        called(ADD_RULE, ruleset, BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def called(number: int, *arguments: int | bytes) -> int:
    """Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_char_p(one) if isinstance(one, bytes) else ctypes.c_long(one) for one in arguments]
    found: int = libc.syscall(ctypes.c_long(number), *given)
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


def drop_rights() -> None:
    """Of root's rights keep those over files: others see into every process, whatever the rules for files say."""
    capset = getattr(ctypes.CDLL(None, use_errno=True), "capset", None)
    if capset is not None and os.geteuid() == 0:
        capset(struct.pack("=Ii", CAPABILITIES, 0), struct.pack("=6I", OVER_FILES, OVER_FILES, 0, 0, 0, 0))
