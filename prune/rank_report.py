"""What a lowered rank cost and saved, as data and as lines."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptool.report import Report
from ckptool.text import escape, plural, size
from ckptool.words import SHOWN, more

if TYPE_CHECKING:
    from ckptool.prune.rank import Reduced


def rank_data(reduced: "Reduced") -> Report:
    """`rank` by module, `ranks` for the file: the ranks that occur, bytes, the worst module, what stayed and why."""
    outcomes = reduced.outcomes
    return {
        "rank": {
            name: {"from": o.before, "to": o.after, "energy": o.energy, "relative_error": o.error}
            for name, o in outcomes.items()
        },
        "ranks": {
            "from": sorted({outcome.before for outcome in outcomes.values()}),
            "to": sorted({outcome.after for outcome in outcomes.values()}),
            "bytes_before": reduced.nbytes_before,
            "bytes_after": reduced.plan.nbytes,
            "worst_relative_error": max((outcome.error for outcome in outcomes.values()), default=0.0),
            "dora_scale_kept": reduced.rescaled,
            "untouched": [{"name": name, "reason": reason} for name, reason in reduced.untouched.items()],
        },
    }


def rank_lines(report: Report, verbose: bool) -> Iterator[str]:
    """For people; nothing when the report has no ranks."""
    if "ranks" not in report:
        return
    ranks, modules = report["ranks"], report["rank"]
    changed = {name: item for name, item in modules.items() if item["to"] != item["from"] or item["relative_error"]}
    if changed:
        of_all = f"{plural(len(changed), 'module')} of {len(modules) + len(ranks['untouched']):,} changed"
        yield f"  rank: {span(ranks['from'])} -> {span(ranks['to'])}, {of_all}"
        yield (
            f"  tensors: {size(ranks['bytes_before'])} -> {size(ranks['bytes_after'])}; "
            f"the update that lost most is off by {ranks['worst_relative_error']:.2%}"
        )
    else:
        yield "  rank: no module changed"
    if ranks["dora_scale_kept"]:
        yield (
            f"  dora_scale kept in {plural(ranks['dora_scale_kept'], 'module')}: "
            "the norm that it stands for moves with what the update lost"
        )
    by_error = sorted(changed.items(), key=lambda item: -item[1]["relative_error"])
    for name, item in by_error if verbose else ():
        yield f"    {escape(name)}: {item['from']} -> {item['to']}, off by {item['relative_error']:.2%}"
    yield from untouched_lines(ranks["untouched"], verbose)


def untouched_lines(untouched: list[Report], verbose: bool) -> Iterator[str]:
    """The modules that stay, by reason; each of them when all is asked for."""
    by_reason: dict[str, list[str]] = {}
    for item in untouched:
        by_reason.setdefault(item["reason"], []).append(item["name"])
    for reason, names in list(by_reason.items())[: None if verbose else SHOWN]:
        yield f"  rank not lowered in {plural(len(names), 'module')}: {escape(reason, 400)}"
        for name in names if verbose else names[:1]:
            yield f"    {escape(name)}"
    for line in more(len(by_reason), verbose):
        yield f"  {line}"


def span(ranks: list[int]) -> str:
    """32, or 4 to 32."""
    return f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}" if ranks else "none"
