"""The machine that the figures hold for."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ckptool", "numpy", "zlib-ng", "torch", "safetensors", "picklescan")


def machine() -> dict[str, str]:
    """What it is, by headings that people look for."""
    copy = subprocess.run(["cp", "--version"], capture_output=True, text=True, check=False).stdout.partition("\n")[0]
    return {
        "CPU": f"{field('/proc/cpuinfo', 'model name')}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory('MemTotal') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}, {copy or 'an unknown cp'}",
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {installed(name)}" for name in PACKAGES),
    }


def memory(name: str) -> int:
    """A line of /proc/meminfo, in bytes."""
    return int(field("/proc/meminfo", name).split()[0]) * 1024


def field(path: str, name: str) -> str:
    """The first value under a name in one of the kernel's tables."""
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(none)"
