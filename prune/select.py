"""Choose tensors by component and by name."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import translate
from functools import cache

from ckptool.errors import UsageError
from ckptool.identify.components import COMPONENTS, component_of
from ckptool.prune.outcome import Outcome, leave_out
from ckptool.tensor import Plan, Tensor
from ckptool.text import escape

# Short names that people know.
ALIASES: dict[str, str] = {"te": "text_encoder", "clip": "text_encoder", "te2": "text_encoder_2"}
CHOICES = tuple(sorted((*COMPONENTS, *ALIASES)))
# Markers that say how a UNet predicts: without them it would be another model.
MARKERS = frozenset({"v_pred", "ztsnr", "edm_mean", "edm_std"})
MARKER_PREFIX = "edm_vpred."
COMPARED = 5_000
"""Names that a pattern without a match is compared with, to show those that are near."""


def part_of(name: str, kind: str) -> str:
    """The component that a tensor goes with when components are chosen."""
    if name in MARKERS or name.startswith(MARKER_PREFIX):
        return "unet"
    return component_of(name, kind)


def canonical(components: Iterable[str]) -> tuple[str, ...]:
    """Components by their full names, each once."""
    return tuple(dict.fromkeys(ALIASES.get(name, name) for name in components))


def matching(patterns: Iterable[str], names: Iterable[str]) -> frozenset[str]:
    """The names that any pattern matches (`*`, `?` and `[…]`; `*` goes across dots)."""
    listed = tuple(names)
    return frozenset(name for pattern in patterns for name in listed if pattern_of(pattern)(name))


def check_matches(patterns: Iterable[str], names: Iterable[str]) -> None:
    """Raises UsageError for a pattern that matches none, with names that are near."""
    listed = tuple(names)
    for pattern in patterns:
        if not any(map(pattern_of(pattern), listed)):
            near = ", ".join(escape(name) for name in close(pattern, listed)) or "inspect lists the components"
            raise UsageError(f"no tensor's name matches {escape(pattern)!r}", f"names that are near: {near}")


@cache
def pattern_of(pattern: str) -> Callable[[str], object]:
    return re.compile(translate(pattern)).match


def close(pattern: str, names: tuple[str, ...]) -> list[str]:
    """At most three names that a pattern may have meant."""
    plain = re.sub(r"[*?\[\]]", "", pattern)[:200]
    first = plain.partition(".")[0]
    likely = sorted(names, key=lambda name: (not name.startswith(plain), not name.startswith(first)))[:COMPARED]
    starting = [name for name in likely[:3] if plain and name.startswith(plain)]
    return starting or get_close_matches(plain, [name[:200] for name in likely], 3, 0.5) or likely[:3]


def check_present(tensors: Iterable[Tensor], kind: str, components: Iterable[str]) -> None:
    """Raises UsageError when a component to choose or to leave out is not there."""
    present = sorted({part_of(tensor.name, kind) for tensor in tensors})
    for component in components:
        if component not in present:
            raise UsageError(f"it has no {component}", f"it has {', '.join(present) or 'nothing'}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What was asked for. `kept` and `dropped` are names of tensors, and `kept` wins over all else."""

    only: tuple[str, ...]
    without: tuple[str, ...]
    kept: frozenset[str]
    dropped: frozenset[str]


def select(plan: Plan, kind: str, selection: Selection, outcome: Outcome) -> Plan:
    """Leave out what was not asked for."""
    groups: dict[str, dict[str, str]] = {}
    for tensor in plan.tensors:
        part = part_of(tensor.name, kind)
        reason = reason_for(tensor.name, part, selection)
        if reason is not None:
            groups.setdefault(part, {})[tensor.name] = reason
    for part, reasons in groups.items():
        plan = leave_out(plan, reasons, part, outcome)
    return plan


def reason_for(name: str, part: str, selection: Selection) -> str | None:
    """Why a tensor is left out, None when it stays."""
    if name in selection.kept:
        return None
    if selection.only and part not in selection.only:
        return f"{part}, and only {' and '.join(selection.only)} was asked for"
    if part in selection.without:
        return f"{part}, which was not asked for"
    return "as asked for by its name" if name in selection.dropped else None
