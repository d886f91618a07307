"""How far an average is from the weights, told from a few values of each."""

from ckptool.convert.gather import look_ahead
from ckptool.errors import CkptoolError
from ckptool.identify.ema import Ema, find_ema
from ckptool.identify.sample import FORMATS, decoded, finite, first_bytes
from ckptool.report import Report
from ckptool.tensor import BITS, Plan, Tensor

BUDGET = 1 << 18
"""Bytes that are read in all."""
LEAST = 32
"""Bytes of each tensor at least, so that of very many only some are looked at."""


def ema_data(plan: Plan) -> tuple[Report, list[str]]:
    """What the report says of the average, and what is wrong with it."""
    try:
        ema = find_ema(plan)
    except CkptoolError as error:
        return {"present": True, "complete": False, "relative_distance": None}, [f"EMA: {error.message}"]
    if ema is None:
        return {"present": False, "complete": False, "relative_distance": None}, []
    distance, sampled, identical = distance_of(plan, ema)
    never = ema.updates == 0
    data: Report = {
        "present": True,
        "complete": ema.complete,
        "relative_distance": distance,
        "sampled_values": sampled,
        "identical": identical,
        "updates": ema.updates,
        "useless": never or bool(identical),
        "layout": ema.layout,
        "tensors": len(ema.twins),
        "missing": len(ema.missing),
        "unmatched": len(ema.unmatched),
    }
    return data, ema_problems(ema, never, identical, sampled)


def ema_problems(ema: Ema, never: bool, identical: bool | None, sampled: int) -> list[str]:
    problems = []
    if never:
        problems.append("EMA useless: it was never updated (num_updates is 0)")
    elif identical:
        problems.append(f"EMA useless: equal to the weights in all {sampled:,} values that were compared")
    if not ema.complete:
        parts = ((len(ema.missing), "weights without an average"), (len(ema.unmatched), "averages without a weight"))
        said = ", ".join(f"{count:,} {what}" for count, what in parts if count) or "names that could mean two weights"
        problems.append(f"EMA incomplete: {said}; using it would mix the two")
    return problems


def distance_of(plan: Plan, ema: Ema) -> tuple[float | None, int, bool | None]:
    """(‖EMA - weights‖ / ‖weights‖, how many values that was told from, whether all of them are equal).

    The first values of each pair, smallest tensors first, until BUDGET is spent.
    """
    weights = {tensor.name: tensor for tensor in plan.tensors}
    prefix = ema.raw_prefix
    pairs = [
        (weight, twin)
        for name, twin in ema.twins.items()
        if (weight := weights.get(prefix + name) or weights.get(name)) is not None
        and comparable(weight) and comparable(twin) and weight.shape == twin.shape
    ]  # fmt: skip
    pairs.sort(key=lambda pair: pair[0].nbytes)
    share = max(BUDGET // (2 * len(pairs)), LEAST) if pairs else 0
    left, sampled, apart, size, identical = BUDGET, 0, 0.0, 0.0, True
    look_ahead((tensor for pair in pairs[: BUDGET // (2 * LEAST)] for tensor in pair), share)
    for weight, twin in pairs:
        count = share // max(width(weight), width(twin))
        left -= count * (width(weight) + width(twin))
        if left < 0:
            break
        one, two = values(weight, count), values(twin, count)
        if one is None or two is None or len(one) != len(two):
            continue
        sampled += len(one)
        apart += sum((a - b) ** 2 for a, b in zip(one, two, strict=True))
        size += sum(a * a for a in one)
        identical = identical and one == two
    if not sampled:
        return None, 0, None
    return (apart / size) ** 0.5 if size > 0 else None, sampled, identical


def comparable(tensor: Tensor) -> bool:
    return tensor.dtype in ("F64", "F32", "F16", "BF16")


def width(tensor: Tensor) -> int:
    return BITS[tensor.dtype] // 8


def values(tensor: Tensor, count: int) -> list[float] | None:
    """The first values, None where they cannot be read without the rest or are not finite."""
    data = first_bytes(tensor, count * width(tensor)) if tensor.dtype in FORMATS else None
    if data is None or len(data) % width(tensor):
        return None
    numbers = decoded(data, tensor.dtype)
    return numbers if finite(numbers) else None
