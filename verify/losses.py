"""Why a tensor of the original may be gone: known kinds of loss, everything else is unexplained."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ckptool.identify.adapters import modules
from ckptool.identify.ema import Ema
from ckptool.prune.effort import Effort
from ckptool.prune.modules import largest_below, rms
from ckptool.prune.rank_peft import read_settings
from ckptool.prune.rank_update import Reader
from ckptool.prune.select import part_of
from ckptool.prune.training import is_training
from ckptool.tensor import Plan, Tensor
from ckptool.verify.expect import Expectation
from ckptool.verify.match import EMA, RAW

ADAPTERS = frozenset({"lora", "lycoris"})
NEGLIGIBLE = 0.01
"""Of the RMS of all updates: a module whose largest entry is below that may be gone without a word."""


@dataclass(slots=True, eq=False)
class Used:
    """Which tensors of the original the candidate holds."""

    names: set[str] = field(default_factory=set)
    averaged: set[str] = field(default_factory=set)
    """Weights in whose place the average stands."""
    raw: bool = False
    """The weights behind `params.` stand under the plain names."""


@dataclass(slots=True, eq=False)
class Losses:
    dropped: dict[str, str] = field(default_factory=dict)
    """Name -> reason."""
    unexplained: dict[str, str] = field(default_factory=dict)
    inferred: list[str] = field(default_factory=list)
    """Sentences about what nobody stated."""

    def add(self, names: Iterable[str], reason: str) -> None:
        self.dropped |= dict.fromkeys(names, reason)


def losses(original: Plan, kind: str, ema: Ema | None, used: Used, expected: Expectation) -> Losses:
    """What became of each tensor of the original that the candidate does not hold."""
    found = Losses()
    gone = [tensor for tensor in original.tensors if tensor.name not in used.names]
    if not gone:
        return found
    # Of an average that stands for itself nothing would be left.
    present = {tensor.name for tensor in original.tensors}
    alone = {twin.name for name, twin in ema.twins.items() if name not in present} if ema is not None else set()
    for tensor in gone:
        reason = "" if tensor.name in alone else known(tensor.name, ema, used)
        if reason:
            found.dropped[tensor.name] = reason
    modules_gone(original, gone, expected, found)
    extracted(original, kind, used, gone, expected, found)
    for tensor in gone:
        name = tensor.name
        if expected.stated and name not in expected.dropped:
            found.dropped.pop(name, None)
            found.unexplained[name] = "is gone, and the report does not say so"
        elif name in expected.dropped:
            found.dropped[name] = f"as the report says: {expected.dropped[name]}"
            found.unexplained.pop(name, None)
        elif name not in found.dropped:
            found.unexplained.setdefault(name, "is gone")
    return found


def known(name: str, ema: Ema | None, used: Used) -> str:
    """What inference does not need; empty where it may."""
    if name in used.averaged:
        return "raw weight, whose average (EMA) stands in its place"
    if ema is not None and name in ema.names and (not ema.raw_prefix or used.raw):
        return "a moving average (EMA) of the weights"
    if ema is not None and ema.raw_prefix and name in ema.twins and not used.raw:
        return "raw weight beside its average (EMA)"
    return "training state" if is_training(name) else ""


def modules_gone(original: Plan, gone: list[Tensor], expected: Expectation, found: Losses) -> None:
    """Modules of an adapter that are gone altogether: loaders skip them, so their update must have been about zero."""
    every = modules(original)
    names = {tensor.name for tensor in gone}
    lost = {name: m for name, m in every.items() if m.parts and all(t.name in names for t in m.parts.values())}
    if not lost or len(lost) == len(every):
        return
    reader, settings = Reader(), read_settings(original.metadata, every.values())
    limit = expected.threshold
    if limit is None or expected.relative:
        share = NEGLIGIBLE if limit is None else limit
        limit = share * rms(every, reader, settings)
    sizes: list[float] = []
    effort = Effort.of(original.nbytes)
    for module in lost.values():
        parts = [tensor.name for tensor in module.parts.values()]
        size = largest_below(module, limit, reader, settings, effort) if limit > 0 else None
        if size is None:
            found.unexplained |= dict.fromkeys(parts, f"its module is gone, whose update is not below {limit:.3g}")
        else:
            sizes.append(size)
            found.add(parts, f"its module adds about nothing: the largest entry of its update is {size:.3g}")
    if sizes and expected.threshold is None and not expected.stated:
        found.inferred.append(f"modules whose whole update is at most {max(sizes):.3g} were removed")


def extracted(original: Plan, kind: str, used: Used, gone: list[Tensor], expected: Expectation, found: Losses) -> None:
    """Where all that the candidate holds is one component of the original, the others were left out on purpose."""
    if expected.stated or kind in ADAPTERS or not used.names:
        return
    parts = {part_of(tensor.name, kind) for tensor in original.tensors if tensor.name in used.names}
    if len(parts) != 1 or parts <= {"other", "training", "ema"}:
        return
    (only,) = parts
    others = [tensor.name for tensor in gone if part_of(tensor.name, kind) != only and tensor.name not in found.dropped]
    if others:
        found.add(others, f"the candidate is the {only} alone")
        found.inferred.append(f"the {only} was extracted: everything else of the original is left out")


def how_used(pairs: Iterable[tuple[str, str, str]]) -> Used:
    """Of (name of the weight, name of the tensor that stands there, how) of each pair that was compared."""
    used = Used()
    for plain, name, how in pairs:
        used.names.add(name)
        used.raw |= how == RAW
        if how == EMA:
            used.averaged.add(plain)
    return used
