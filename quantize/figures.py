"""What a cast says of itself: the report's own keys, and the lines for people."""

from collections import Counter
from collections.abc import Iterator

from ckptool.identify.components import component_of
from ckptool.quantize.cast import MOVES, Casting
from ckptool.quantize.kernels import Kernel
from ckptool.reached import moved
from ckptool.report import Report
from ckptool.tensor import Cast, Plan, Tensor
from ckptool.text import escape, plural, size
from ckptool.words import more

NAMED = 4
"""Names that stand for a group of tensors."""
GROUPS = 10
COARSE = 0.1
"""Of ordinary weights FP8 makes 0.02 to 0.06."""
# What became of values that are not ordinary.
WORDS: dict[str, str] = {
    "overflowed": "beyond the range, now the largest there is",
    "underflowed": "too small, now zero",
    "subnormal": "so small that digits were lost",
    "nan": "NaN, as before",
    "inf": "infinite before",
}


def figures(casting: Casting, plan: Plan) -> Report:
    """The report's own keys; what has to be measured is null where the bytes have not flowed."""
    cast = list(casts(plan))
    before = {choice.tensor.name: choice.tensor for choice in casting.choices}
    vae = [tensor for tensor, _ in cast if component_of(tensor.name, casting.kind) == "vae"]
    own: Report = {} if casting.reached is None else {"max_error": casting.reached.data}
    return own | {
        "cast": [cast_data(tensor, kernel) for tensor, kernel in cast],
        "kept_wide": [
            {"name": choice.tensor.name, "reason": choice.reason} for choice in casting.choices if choice.reason
        ],
        "bytes": {
            "before": sum(tensor.nbytes for tensor in before.values()),
            "after": plan.nbytes,
            "vae_cast": sum(before[tensor.name].nbytes for tensor in vae),
        },
    }


def casts(plan: Plan) -> Iterator[tuple[Tensor, Kernel]]:
    """The tensors of a plan that are cast, each with what casts it."""
    for tensor in plan.tensors:
        if isinstance(tensor.data, Cast) and isinstance(tensor.data.convert, Kernel):
            yield tensor, tensor.data.convert


def cast_data(tensor: Tensor, kernel: Kernel) -> Report:
    names = ("overflowed", "underflowed", "subnormal", "nan", "inf")
    data: Report = {"name": tensor.name, "from": kernel.source, "to": kernel.target}
    if kernel.scale != 1.0:
        data["scale"] = kernel.scale
    if not kernel.tally.complete:
        return data | dict.fromkeys(("max_abs_error", "relative_error", *names))
    total = kernel.tally.total()
    data |= {"max_abs_error": total.max_error, "relative_error": rounded(kernel.tally.relative_error())}
    return data | {name: getattr(total, name) for name in names}


def rounded(number: float) -> float:
    """Six digits: more would depend on how the work was cut into pieces."""
    return float(f"{number:.6g}")


def lines(report: Report, verbose: bool) -> Iterator[str]:
    """What people are told: how much was cast, how well, what was kept and why."""
    cast, count = report["cast"], report["bytes"]
    if not cast:
        yield "  nothing to cast: no tensor is wider than that, or all are kept"
    for to, number in sorted(Counter(item["to"] for item in cast).items()):
        yield f"  {plural(number, 'tensor')} cast to {to}"
    if cast:
        yield f"  tensors: {size(count['before'])} -> {size(count['after'])}"
    if cast and cast[0]["max_abs_error"] is not None:
        yield from measured(cast)
    if "max_error" in report:
        yield f"  this {moved(report['max_error'])}"
    yield from kept(report["kept_wide"], verbose)
    if count["vae_cast"]:
        yield "  the VAE is cast too: should images come out black, keep it wide with --vae keep"


def measured(cast: list[Report]) -> Iterator[str]:
    """The worst error, and what became of values that are not ordinary."""
    worst = max(cast, key=lambda item: item["relative_error"])
    yield f"  worst relative error: {worst['relative_error']:.2g} in {escape(worst['name'])}"
    if worst["to"].startswith("F8") and worst["relative_error"] > COARSE:
        yield "  such values are too small for plain FP8: --scale helps (in ComfyUI), fp16 has room for them"
    for key, words in WORDS.items():
        touched = [item for item in cast if item[key]]
        if touched:
            total = plural(sum(item[key] for item in touched), "value")
            most = escape(max(touched, key=lambda item: item[key])["name"])
            yield f"  {words}: {total} in {plural(len(touched), 'tensor')}, most in {most}"


def kept(items: list[Report], verbose: bool) -> Iterator[str]:
    """Reasons with the names behind them."""
    groups: dict[str, list[str]] = {}
    costs = [float(item["reason"].removeprefix(MOVES)) for item in items if item["reason"].startswith(MOVES)]
    for item in items:
        reason = item["reason"]
        if reason.startswith(MOVES) and not verbose and min(costs) < max(costs):
            reason = f"{MOVES}{min(costs):.2g} to {max(costs):.2g}"
        groups.setdefault(reason, []).append(escape(item["name"]))
    if items:
        yield f"  left as they are: {plural(len(items), 'tensor')}"
    shown = list(groups.items()) if verbose else list(groups.items())[:GROUPS]
    for reason, names in shown:
        first = names if verbose else names[:NAMED]
        count = f" ({len(names):,})" if len(first) < len(names) else ""
        yield f"    {escape(reason)}{count}: {', '.join(first)}{', …' if count else ''}"
    for line in more(len(groups), verbose):
        yield f"    {line}"
