"""What a run of sanitize does with a file: the policy, and the key by which two policies are the same."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ckptool.convert.grades import grade
from ckptool.convert.shards import parse_size
from ckptool.errors import UsageError
from ckptool.identify.families import BASES
from ckptool.identify.identity import KINDS
from ckptool.prune.threshold import check_threshold
from ckptool.text import escape

DISARM, QUARANTINE, REFUSE = "disarm", "quarantine", "refuse"
CHOICES: dict[str, tuple[str, ...]] = {
    "unknown": (DISARM, QUARANTINE, REFUSE),
    "dangerous": (DISARM, QUARANTINE, REFUSE),
    "ema": ("drop", "use", "keep"),
    "dtype": ("keep", "fp16", "bf16", "fp8"),
    "verify": ("none", "tensors", "denoise"),
}
NO_BASE = "none"
"""Among the bases: files in which no base shows, such as an upscaler."""
SIZES = frozenset({"max_size", "max_memory", "max_output"})
NAMES = frozenset({"kinds", "bases", "harmless"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is done with what is found, and what comes out; the same policy gives the same output."""

    unknown: str = DISARM
    """Where a pickle names something unknown: disarm, quarantine (disarmed too, but set apart) or refuse."""
    dangerous: str = DISARM
    ema: str | None = None
    """drop, use or keep; None drops what loaders do not read."""
    dtype: str = "keep"
    threshold: float | None = None
    verify: str = "tensors"
    kinds: tuple[str, ...] = ()
    """Kinds that are let through; all where there are none."""
    bases: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()
    """Full names that would be graded unknown."""
    max_size: int | None = None
    """Bytes of a source."""
    max_memory: int | None = None
    max_output: int | None = None
    timeout: int | None = None

    @property
    def data(self) -> dict[str, Any]:
        """What decides on an output; limits only decide whether there is one."""
        return {name: value for name, value in asdict(self).items() if name not in LIMITS}

    @property
    def sha256(self) -> str:
        text = json.dumps(self.data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def reaction(self, verdict: str) -> str:
        """disarm, quarantine or refuse."""
        return {"unknown": self.unknown, "dangerous": self.dangerous}.get(verdict, DISARM)


LIMITS = frozenset({"max_memory", "max_output", "timeout"})
KEYS = tuple(field.name for field in fields(Policy))


def policy_of(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a table, checked. Raises UsageError for a key or a value that means nothing."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in KEYS:
            raise UsageError(
                f"{where}: {escape(key, 80)} is no setting of sanitize",
                f"there are {', '.join(known.replace('_', '-') for known in KEYS)}",
            )
        if name in found:
            raise UsageError(f"{where}: {escape(key, 80)} is given twice", "keep one of them")
        found[name] = checked(name, value, f"{where}: {escape(key, 80)}")
    return found


def checked(name: str, value: Any, where: str) -> Any:
    """One value in the form that Policy holds it in."""
    if name in CHOICES:
        if not isinstance(value, str) or value not in CHOICES[name]:
            raise UsageError(f"{where}: {told(value)} is none of its values", f"give {' or '.join(CHOICES[name])}")
        return value
    if name in SIZES:
        if type(value) not in (int, str):
            raise UsageError(f"{where}: {told(value)} is not a size", "write it as 5GB, 512MiB or a number of bytes")
        return parse_size(str(value))
    if name == "timeout":
        if type(value) is not int or value < 1:
            raise UsageError(f"{where}: {told(value)} is no time", "give whole seconds from 1 on")
        return value
    if name == "threshold":
        if type(value) not in (int, float):
            raise UsageError(f"{where}: {told(value)} is no number", "give a number above 0, such as 1e-4")
        check_threshold(float(value))
        return float(value)
    return names(name, value, where)


def names(name: str, value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{where}: {told(value)} is no list of names", 'write it as ["one", "other"]')
    known = {"kinds": KINDS, "bases": (*BASES, NO_BASE)}.get(name)
    for item in value:
        if known is not None and item not in known:
            raise UsageError(f"{where}: {escape(item, 80)} is none of them", f"there are {', '.join(known)}")
        if name == "harmless":
            check_harmless(item, where)
    return tuple(sorted(set(value)))


def check_harmless(name: str, where: str) -> None:
    """Raises UsageError for what is no full name, and for what no policy can call harmless."""
    module, _, last = name.rpartition(".")
    if not module or not last:
        raise UsageError(f"{where}: {escape(name, 80)} is no full name", "write it as package.module.Class")
    found = grade(module, last)
    if found.level == "dangerous":
        raise UsageError(
            f"{where}: {escape(name, 80)} {found.effect}, so it cannot count as harmless",
            "what is dangerous is disarmed anyway; --dangerous says what becomes of the file",
        )


def told(value: Any) -> str:
    return escape(repr(value), 80)
