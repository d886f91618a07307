"""Which weights a threshold may touch, and the plan in which their values near zero become zero."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

from ckptool.convert.gather import pieces
from ckptool.convert.sums import base_of
from ckptool.convert.writer import unpacked
from ckptool.errors import Refused, UsageError
from ckptool.identify.components import component_of
from ckptool.prune.zeroing import BLOCK, TOP, Tally, squared, total, zeroing
from ckptool.tensor import BITS, Change, Inline, Mapped, Plan, Tensor
from ckptool.text import plural

TARGETS = frozenset({"unet", "text_encoder", "text_encoder_2"})
# Kinds whose UNet or text encoder is there as it is used (a full ControlNet file has both). The tiny values of all
# others matter.
KINDS = frozenset({"checkpoint", "unet", "text-encoder", "controlnet"})
# Parts of names that are no targets, though some have two dimensions.
EXACT = frozenset({"bias", "alpha", "dora_scale", "position_ids", "relative_attention_bias", "shared", "scale_weight"})
WITHIN = ("norm", "lora_", "lokr_", "hada_", "zero_conv")
ENDINGS = ("embed", "embedding", "embeddings", "embed_tokens", "_emb", "embed_positions")
WARN = 1e-3
"""From here on an absolute threshold shows in the pictures."""


@dataclass(slots=True, eq=False)
class Zeroed:
    """What a threshold did, by component."""

    threshold: float
    relative: bool
    tallies: dict[str, Tally] = field(default_factory=dict)
    roots: dict[str, float] = field(default_factory=dict)
    """Where it is relative: the RMS of each target."""
    modules: int | None = None
    """Of an adapter: how many modules without effect were left out; its other values stay as they are."""


def check_threshold(threshold: float) -> None:
    if not isfinite(threshold) or threshold <= 0:
        raise UsageError(f"a threshold of {threshold} means nothing", "give a number above 0, such as 1e-4")


def is_target(tensor: Tensor, component: str) -> bool:
    """A weight of a UNet or a text encoder that multiplies what flows through it."""
    if component not in TARGETS or tensor.dtype not in TOP or len(tensor.shape) < 2 or tensor.nbytes == 0:
        return False
    return not any(is_protected(part) for part in tensor.name.split("."))


def is_protected(part: str) -> bool:
    return part in EXACT or part.endswith(ENDINGS) or any(text in part for text in WITHIN)


def near_zero(plan: Plan, kind: str, zeroed: Zeroed, folder: Path) -> Plan:
    """The plan with a change on every target. `folder` takes what has to be inflated for a first reading."""
    if zeroed.relative and not zeroed.roots and kind in KINDS:
        targets = (tensor for tensor in plan.tensors if is_target(tensor, component_of(tensor.name, kind)))
        zeroed.roots.update(root_mean_squares(targets, folder))
    changes: dict[tuple[str, str, float], Change] = {}
    tensors: list[Tensor] = []
    for tensor in plan.tensors:
        component = component_of(tensor.name, kind)
        if kind not in KINDS or not is_target(tensor, component):
            tensors.append(tensor)
            continue
        limit = zeroed.threshold * (zeroed.roots[tensor.name] if zeroed.relative else 1.0)
        if limit > 0 and isfinite(limit):
            # One change for the same limit, so that tied tensors are seen to be tied.
            key = (component, tensor.dtype, limit)
            if key not in changes:
                tally = zeroed.tallies.setdefault(component, Tally())
                changes[key] = zeroing(tensor.dtype, limit, tally)
            tensor = replace(tensor, data=Mapped(tensor.data, BITS[tensor.dtype] // 8, changes[key]))
        tensors.append(tensor)
    return replace(plan, tensors=tuple(tensors))


def root_mean_squares(targets: Iterable[Tensor], folder: Path) -> dict[str, float]:
    """Of each tensor; those of one deflated record together, so that it is inflated once."""
    groups: dict[object, list[Tensor]] = {}
    for tensor in targets:
        base = base_of(tensor.data)
        key: object = tensor.name
        if not isinstance(base, Inline) and base.record.packed is not None:
            key = (id(base.record.source), base.record.offset)
        groups.setdefault(key, []).append(tensor)
    found: dict[str, float] = {}
    for group in groups.values():
        with ExitStack() as stack:
            for tensor in unpacked(tuple(group), folder, stack):
                found[tensor.name] = root_mean_square(tensor)
    return found


def root_mean_square(tensor: Tensor) -> float:
    """Of a tensor's finite values, in F64; 0 when there are none, infinity when they are too large for that."""
    import numpy

    squares, count = 0.0, 0
    for block in blocks(tensor):
        squares += total(squared(block, tensor.dtype))
        count += int(numpy.count_nonzero(block < block.dtype.type(TOP[tensor.dtype])))
    return sqrt(squares / count) if count else 0.0


def blocks(tensor: Tensor) -> Iterator[Any]:
    """The magnitudes of a tensor that is not packed, as bits, block by block."""
    import numpy

    width = BITS[tensor.dtype] // 8
    for _, piece in pieces(tensor.data):
        whole = numpy.frombuffer(piece, f"<u{width}")
        for start in range(0, len(whole), BLOCK):
            yield whole[start : start + BLOCK] & whole.dtype.type((1 << (8 * width - 1)) - 1)


def rehearse(tensors: Iterable[Tensor], folder: Path) -> None:
    """Let the values of changed tensors pass without writing them: on a dry run, for the tally alone."""
    for tensor in tensors:
        if isinstance(tensor.data, Mapped):
            with ExitStack() as stack:
                (readable,) = unpacked((tensor,), folder, stack)
                for _ in pieces(readable.data):
                    pass


def refuse_quantised(reason: str | None) -> None:
    """Values of a quantised file are codes: only with their scales would they mean a weight."""
    if reason is not None:
        raise Refused(
            f"a threshold does not apply to a file that is quantised: {reason}", "prune it without --threshold"
        )


# --- what is told ------------------------------------------------------------------------------------------------


def zeroed_data(zeroed: Zeroed) -> dict[str, dict[str, Any]]:
    """The key `zeroed` of the report. Sums of several threads come in any order: six digits of them are certain."""
    return {
        component: {
            "values": tally.zeroed,
            "of": tally.total,
            "fraction": significant(tally.fraction),
            "relative_error": None if tally.relative_error is None else significant(tally.relative_error),
            "nan": tally.nan,
        }
        for component, tally in sorted(zeroed.tallies.items())
    }


def significant(number: float) -> float:
    return float(f"{number:.6g}")


def zeroed_lines(data: dict[str, dict[str, Any]], zeroed: Zeroed, measured: bool = False) -> Iterator[str]:
    """For people: what became zero, what it costs, and that the file is as large as before.

    `measured`: what it costs in pictures was looked at, so no rule of thumb is needed.
    """
    unit = " × RMS" if zeroed.relative else ""
    yield f"  near zero (|w| < {zeroed.threshold:g}{unit}):" if zeroed.threshold else "  near zero:"
    for component, found in data.items():
        error = found["relative_error"]
        cost = "unknown" if error is None else f"{error:.2g}"
        share = f"{plural(found['values'], 'value')} of {found['of']:,} ({found['fraction']:.2%})"
        yield f"    {component}: {share} became 0, relative L2 error {cost}"
        if found["nan"]:
            yield f"    {component}: {plural(found['nan'], 'value')} are NaN and stay"
    if zeroed.modules is not None:
        yield f"    {plural(zeroed.modules, 'module')} of the adapter left out; the values of all others stay"
        return
    if not data:
        yield "    no weights in this file are safe to zero"
        return
    yield "    a dense file stays the same size; only what compresses it afterwards gains"
    if not zeroed.relative and not measured and zeroed.threshold >= WARN:
        yield f"    warning: from {WARN:g} on the model draws other pictures; 1e-4 costs about what an F16 cast costs"
