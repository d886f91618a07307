"""What is in a file, by component: tensors, parameters, bytes, dtypes, and what could be saved of them."""

from collections import Counter
from dataclasses import dataclass, field
from math import prod

from ckptool.identify.components import COMPONENTS, component_of
from ckptool.report import Report
from ckptool.tensor import Plan, Tensor

WIDE = {"F64": 4, "F32": 2}
"""Floats that F16 makes smaller, and how many times."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"})


@dataclass(slots=True, eq=False)
class Component:
    """The tensors of one component, counted."""

    tensors: int = 0
    params: int = 0
    nbytes: int = 0
    dtypes: Counter[str] = field(default_factory=Counter)
    """Bytes of each dtype."""


def components_of(plan: Plan, kind: str) -> dict[str, Component]:
    """The components that are there, in the order of COMPONENTS."""
    found: dict[str, Component] = {}
    for tensor in plan.tensors:
        component = found.setdefault(component_of(tensor.name, kind), Component())
        nbytes = tensor.nbytes
        component.tensors += 1
        component.params += prod(tensor.shape)
        component.nbytes += nbytes
        component.dtypes[tensor.dtype] += nbytes
    return {name: found[name] for name in COMPONENTS if name in found}


def components_data(components: dict[str, Component]) -> Report:
    return {
        name: {
            "tensors": component.tensors,
            "params": component.params,
            "bytes": component.nbytes,
            "dtypes": [dtype for dtype, _ in component.dtypes.most_common()],
        }
        for name, component in components.items()
    }


def precision_of(components: dict[str, Component]) -> str | None:
    """The dtype of the weights; where there are several, each, the one with most bytes first."""
    total: Counter[str] = Counter()
    for name, component in components.items():
        if name not in ("other", "training") or len(components) == 1:
            total.update({dtype: count for dtype, count in component.dtypes.items() if dtype in FLOATS and count})
    return " + ".join(dtype for dtype, _ in total.most_common()) or None


def savings_of(components: dict[str, Component], left_out: int, castable: bool) -> Report:
    """Bytes that each way to make the file smaller would save, and the bytes that would be left after all of them.

    `left_out`: bytes of a pickle that belong to none of its tensors, such as the state of an optimizer. `castable`:
    whether a cast makes sense, which it does not for a quantised file. EMA and training state are not cast as well,
    since they would be dropped.
    """
    total = sum(component.nbytes for component in components.values()) + left_out
    ema, training = (components[n].nbytes if n in components else 0 for n in ("ema", "training"))
    cast = sum(
        component.dtypes[dtype] - component.dtypes[dtype] // times
        for name, component in components.items()
        for dtype, times in WIDE.items()
        if castable and name not in ("ema", "training", "other")
    )
    training += left_out
    left = total - ema - training - cast
    return {"ema": ema, "training": training, "fp16": cast, "bytes": total, "bytes_after": left}


def position_problems(tensors: tuple[Tensor, ...]) -> list[str]:
    """Position ids that are not the integers 0, 1, 2 …: how they are stored, and which are off by how much."""
    named = [t for t in tensors if t.name == "position_ids" or t.name.endswith(".position_ids")]
    found = [problem for tensor in named[:MAX_ENCODERS] if (problem := off(tensor))]
    if len(named) > MAX_ENCODERS:
        found.append(f"position ids of {len(named) - MAX_ENCODERS:,} more text encoders were not looked at")
    return found


MAX_ENCODERS = 16
MAX_POSITIONS = 1 << 12
SHOWN = 6


def off(tensor: Tensor) -> str | None:
    """What is wrong with one tensor of position ids."""
    from ckptool.identify.names import shown
    from ckptool.identify.sample import numbers_of

    what = f"{shown(tensor)}: position ids are {tensor.dtype}"
    numbers = numbers_of(tensor, MAX_POSITIONS)
    if numbers is None:
        return f"{what}, and cannot be read as numbers"
    wrong = [(index, number) for index, number in enumerate(numbers) if number != index]
    integers = tensor.dtype in ("I64", "I32")
    if not wrong:
        return None if integers else f"{what} instead of I64, though none is off"
    some = ", ".join(f"{index} is {number:.7g}" for index, number in wrong[:SHOWN])
    more = f" and {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
    largest = max(abs(number - index) for index, number in wrong)
    return f"{what}{'' if integers else ' instead of I64'}: {len(wrong):,} off by up to {largest:.3g}: {some}{more}"
