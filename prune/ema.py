"""Drop the average of the weights, use it in their place, or keep both; never a mixture."""

from dataclasses import replace

from ckptool.errors import Refused
from ckptool.identify.ema import FLOATS, Ema, find_ema
from ckptool.prune.outcome import Outcome, leave_out, renamed
from ckptool.tensor import Dropped, Plan, Tensor
from ckptool.text import escape, plural

SHOWN = 3
COUNTER = "belongs to the moving average (EMA)"
DROP_OR_KEEP = "--ema drop takes the raw weights, --ema keep both"


def apply_ema(plan: Plan, mode: str | None, kept: frozenset[str], outcome: Outcome, whole: bool = True) -> Plan:
    """`mode` is drop, use or keep; None drops what no loader reads. `kept`: names that stay in any case.

    `whole`: a whole model is to come out, so the only weights that there are must not be dropped.

    Raises Refused when the average is to be used and cannot be, or when nothing but an average is to be dropped.
    """
    ema = find_ema(plan)
    if ema is None:
        if mode == "use":
            raise Refused("it holds no EMA weights", "prune it without --ema use")
        return plan
    if mode is None:
        # `params_ema` is what loaders prefer, and it has the plain names already.
        mode = "use" if ema.raw_prefix and ema.complete else "drop"
    if mode == "keep":
        return plan
    if mode == "use":
        return use(plan, ema, outcome)
    if whole:
        check_weights(plan, ema)
    return drop(plan, ema, kept, outcome)


def check_weights(plan: Plan, ema: Ema) -> None:
    """Raises Refused when an average stands in a file without the weights that it averages."""
    raw = {tensor.name for tensor in plan.tensors}
    if ema.twins and not any(name in raw for name in ema.twins):
        raise Refused(
            f"its weights are there as an EMA only ({escape(ema.layout)}): dropping it would leave no model",
            "--ema use gives the EMA weights the plain names",
        )


def drop(plan: Plan, ema: Ema, kept: frozenset[str], outcome: Outcome) -> Plan:
    """Without the averages and their counters."""
    names = ema.names if ema.raw_prefix else ema.names - kept
    reasons = dict.fromkeys(names, "a moving average (EMA) that inference does not need")
    for counter in ema.counters:
        if counter.name in reasons:
            reasons[counter.name] = COUNTER
    plan = leave_out(plan, reasons, "EMA", outcome)
    return renamed(plan, {t.name: t.name.removeprefix(ema.raw_prefix) for t in plan.tensors}, outcome)


def use(plan: Plan, ema: Ema, outcome: Outcome) -> Plan:
    """The averages under the names of the weights."""
    check_usable(plan, ema)
    if ema.raw_prefix:
        tensors = {tensor.name: tensor for tensor in plan.tensors}
        twins = {name: f"replaced by its EMA twin {twin.name}" for name, twin in ema.twins.items() if name in tensors}
        plan = leave_out(plan, twins, "raw weights", outcome)
        # What has no average is a buffer.
        rest = {name: name.removeprefix(ema.raw_prefix) for name in tensors if name not in twins}
        return renamed(plan, rest, outcome)
    return exchanged(plan, ema, outcome)


def exchanged(plan: Plan, ema: Ema, outcome: Outcome) -> Plan:
    """Each weight with the data of its average, in the weight's place; where there is no weight, in the average's."""
    present = {tensor.name for tensor in plan.tensors}
    plain = {twin.name: name for name, twin in ema.twins.items()}
    counters = {counter.name for counter in ema.counters}
    tensors: list[Tensor] = []
    dropped: list[Dropped] = []
    raw_bytes = 0
    for tensor in plan.tensors:
        if tensor.name in counters:
            dropped.append(Dropped(tensor.name, COUNTER))
        elif twin := ema.twins.get(tensor.name):
            tensors.append(replace(twin, name=tensor.name))
            dropped.append(Dropped(tensor.name, f"replaced by its EMA twin {twin.name}"))
            raw_bytes += tensor.nbytes
        elif tensor.name in plain:
            dropped.append(Dropped(tensor.name, f"written as {plain[tensor.name]}"))
            outcome.exchanged.append((tensor.name, plain[tensor.name]))
            if plain[tensor.name] not in present:
                outcome.restored = True
                tensors.append(replace(tensor, name=plain[tensor.name]))
        else:
            tensors.append(tensor)
    if raw_bytes:
        outcome.count("raw weights", sum(name in present for name in ema.twins), raw_bytes)
    return replace(plan, tensors=tuple(tensors), dropped=(*plan.dropped, *dropped))


def check_usable(plan: Plan, ema: Ema) -> None:
    """Raises Refused unless each trainable weight has an average of its own, and the averages mean something."""
    layout = escape(ema.layout)
    if ema.updates == 0:
        raise Refused(f"its EMA ({layout}) was never updated: num_updates is 0", DROP_OR_KEEP)
    if ema.collisions:
        raise Refused(
            f"its EMA ({layout}) is ambiguous: {some(ema.collisions)} share a name without dots", DROP_OR_KEEP
        )
    if ema.missing:
        count = plural(len(ema.missing), "weight")
        raise Refused(f"its EMA ({layout}) is not complete: {count} without one, {some(ema.missing)}", DROP_OR_KEEP)
    if not ema.complete:
        what = some(ema.unmatched) if ema.unmatched else "nothing"
        raise Refused(f"its EMA ({layout}) does not fit the weights: no weight belongs to {what}", DROP_OR_KEEP)
    for tensor in plan.tensors:
        twin = ema.twins.get(tensor.name)
        if twin is None:
            continue
        if twin.shape != tensor.shape or (twin.dtype != tensor.dtype and twin.dtype not in FLOATS):
            raise Refused(
                f"{escape(tensor.name)} is {tensor.dtype} {list(tensor.shape)}, but its EMA twin {escape(twin.name)} is"
                f" {twin.dtype} {list(twin.shape)}",
                DROP_OR_KEEP,
            )


def some(names: tuple[str, ...]) -> str:
    return ", ".join(escape(name) for name in names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
