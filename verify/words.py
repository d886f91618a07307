"""What `verify` tells people: the verdict, a bar per component, what happened to the tensors, what is unexplained."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from ckptool.report import Report
from ckptool.text import escape, plural
from ckptool.words import SHOWN, more

WIDTH = 20
"""Characters of a bar."""
NAMED = 3


def verdict(report: Report) -> str:
    """One line: whether the candidate is what the original is."""
    candidate, original = escape(report["candidate"], 1000), escape(report["original"], 1000)
    tensors, denoise = report["tensors"], report["denoise"]
    unexplained = len(tensors["unexplained"])
    if report["parity"]:
        every = sum(part["tensors"] for part in tensors["components"].values())
        same = every == tensors["identical"] and not tensors["dropped"]
        says = f"{candidate} holds {original} to the bit" if same else f"all of {candidate} is explained by {original}"
        return f"parity: {says}{', and draws the same' if denoise else ''}"
    if report["other_naming"]:
        return f"no parity: {candidate} names its layers another way than {original}, tensors cannot be paired"
    if report["different_models"]:
        return f"no parity: {candidate} and {original} are different models"
    if unexplained:
        return f"no parity: {plural(unexplained, 'tensor')} of {candidate} not explained by {original}"
    return f"no parity: {candidate} draws something else than {original}"


def lines(report: Report, verbose: bool) -> Iterator[str]:
    """Everything below the verdict."""
    yield from bars(report)
    yield from happened(report["tensors"], verbose)
    yield from metadata_lines(report["metadata"], verbose)
    yield from unexplained_lines(report["tensors"]["unexplained"], verbose)
    yield from overflow_lines(report["overflow"], verbose)
    for problem in report["problems"]:
        yield f"  {problem}"


def bars(report: Report) -> Iterator[str]:
    """How much of each component is explained, and what its outputs say."""
    parts = report["tensors"]["components"]
    for name in [*parts, *(name for name in report["denoise"] if name not in parts)]:
        found = parts.get(name, {"tensors": 0, "explained": 0})
        share = found["explained"] / found["tensors"] if found["tensors"] else 0.0
        # A bar that is full says that nothing is missing, so one that is nearly so must not be.
        filled = WIDTH if share == 1.0 else min(int(share * WIDTH), WIDTH - 1)
        bar = "█" * filled + "░" * (WIDTH - filled)
        yield f"  {name:15}{bar}  {found['explained']:,} of {found['tensors']:,} tensors{drawn(report, name)}"


def drawn(report: Report, name: str) -> str:
    result = report["denoise"].get(name)
    if result is None:
        return ""
    if result.get("skipped"):
        return f"; not run: {escape(result['skipped'])}"
    psnr = result["psnr"]
    decibels = f", {psnr:.1f} dB" if isinstance(psnr, float) else ""
    allowed = f" of {result['tolerance']:.2g} allowed" if result["relative_l2"] else ""
    parted = f", first in {escape(result['parted'])}" if result.get("parted") and not result["within"] else ""
    return f"; output off by {number(result['relative_l2'])}{allowed}{decibels}{parted}"


def number(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float | int) else str(value)


def happened(tensors: Report, verbose: bool) -> Iterator[str]:
    """By group, what was done to the tensors that are explained."""
    if tensors["identical"]:
        yield f"  identical: {plural(tensors['identical'], 'tensor')}"
    for (before, after), count in sorted(Counter((i["from"], i["to"]) for i in tensors["cast"]).items()):
        yield f"  cast {before} to {after}, each value the exact rounding: {plural(count, 'tensor')}"
    clamped = [item for item in tensors["cast"] if item.get("clamped")]
    if clamped:
        values = plural(sum(item["clamped"] for item in clamped), "value")
        yield f"  beyond the range, and the largest value there is now: {values} in {names(clamped, verbose)}"
    for component, zeroed in tensors["zeroed"].items():
        share = f"{plural(zeroed['values'], 'value')} of {zeroed['of']:,} ({zeroed['fraction']:.2%})"
        yield f"  near zero, {component}: {share} became 0, relative L2 error {zeroed['relative_error']:.2g}"
    if tensors["ema"]:
        yield f"  average (EMA) under the weights' names: {plural(len(tensors['ema']), 'tensor')}"
    if tensors["rank"]:
        worst = max(item["relative_error"] for item in tensors["rank"].values())
        ranks = f"rank {spread(tensors['rank'], 'from')} to {spread(tensors['rank'], 'to')}"
        modules = plural(len(tensors["rank"]), "module")
        yield f"  {ranks}, as near as a rank allows: {modules}, the worst off by {worst:.2%}"
    for key, words in (("repaired", "position ids repaired"), ("added", "added"), ("renamed", "renamed")):
        if tensors[key]:
            yield f"  {words}: {plural(len(tensors[key]), 'tensor')}, {names(tensors[key], verbose)}"
    reasons: dict[str, list[Report]] = {}
    for item in tensors["dropped"]:
        reasons.setdefault(item["reason"], []).append(item)
    for reason, items in list(reasons.items())[: None if verbose else SHOWN]:
        yield f"  left out: {plural(len(items), 'tensor')}, {escape(reason)}{shown(items, verbose)}"
    yield from (f"    {line}" for line in more(len(reasons), verbose))
    for sentence in tensors["inferred"]:
        yield f"  inferred: {escape(sentence, 400)}"


def spread(ranks: dict[str, Report], key: str) -> str:
    found = sorted({item[key] for item in ranks.values() if item[key] is not None})
    return "?" if not found else f"{found[0]}" if len(found) == 1 else f"{found[0]}…{found[-1]}"


def names(items: Iterable[Any], verbose: bool) -> str:
    """The names of some, or of all."""
    every = [escape(item if isinstance(item, str) else item.get("name") or item["to"]) for item in items]
    first = every if verbose else every[:NAMED]
    return ", ".join(first) + (", …" if len(first) < len(every) else "")


def shown(items: list[Report], verbose: bool) -> str:
    return f": {names(items, verbose)}" if verbose or len(items) <= NAMED else ""


def metadata_lines(metadata: Report, verbose: bool) -> Iterator[str]:
    """Metadata are no part of the model, so that they only are told."""
    if metadata:
        yield f"  metadata: {plural(len(metadata), 'difference')}: {names(sorted(metadata), verbose)}"
    for key, (before, after) in sorted(metadata.items()) if verbose else ():
        yield f"    {escape(key)}: {told(before)} -> {told(after)}"


def told(value: str | None) -> str:
    return "none" if value is None else escape(value, 80)


def unexplained_lines(items: list[Report], verbose: bool) -> Iterator[str]:
    """One by one; many of a component that share a reason together, unless everything is asked for."""
    if not items:
        return
    yield f"  unexplained: {plural(len(items), 'tensor')}"
    groups: dict[tuple[str, str], list[Report]] = {}
    for item in items:
        groups.setdefault((item["component"], item["why"]), []).append(item)
    found = [line for group in groups.values() for line in group_lines(group, verbose)]
    yield from found if verbose else found[:SHOWN]
    yield from (f"    {line}" for line in more(len(found), verbose))


def group_lines(group: list[Report], verbose: bool) -> Iterator[str]:
    if verbose or len(group) <= NAMED:
        yield from (f"    {line(item)}" for item in group)
    else:
        first = group[0]
        count = f"{len(group):,} tensors of the {first['component']}" if first["component"] != "other" else len(group)
        yield f"    {count} ({escape(first['why'], 400)}), such as"
        yield f"      {line(first)}"


def line(item: Report) -> str:
    """A tensor, why it is unexplained, and where it first differs."""
    text = f"{escape(item['name'])}: {escape(item['why'], 400)}"
    first = item["first_difference"]
    if first is None:
        return text
    values = f"{told_value(first['original'])} -> {told_value(first['candidate'])}"
    count = f"{first['differing']:,} of {first['of']:,}, by up to {number(first['max_abs'])}"
    return f"{text}; first at {first['index']}: {values} ({count})"


def told_value(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def overflow_lines(items: list[Report], verbose: bool) -> Iterator[str]:
    """Layers that would overflow in half precision: the usual cause of black images."""
    if not items:
        return
    yield f"  half precision (above 65,504) would overflow in {plural(len(items), 'layer')}; keep that component in F32"
    for item in items if verbose else items[:SHOWN]:
        yield f"    {escape(item['layer'])}: {number(item['max_activation'])}"
    yield from (f"    {line}" for line in more(len(items), verbose))
