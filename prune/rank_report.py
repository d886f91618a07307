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
    lowered = {name: item for name, item in modules.items() if item["to"] != item["from"] or item["relative_error"]}
    of_all = f"{plural(len(lowered), 'module')} of {len(modules):,} changed"
    yield f"  rank: {span(ranks['from'])} -> {span(ranks['to'])}, {of_all}"
    if lowered:
        yield (
            f"  tensors: {size(ranks['bytes_before'])} -> {size(ranks['bytes_after'])}; "
            f"the update that lost most is off by {ranks['worst_relative_error']:.2%}"
        )
    if ranks["dora_scale_kept"]:
        yield (
            f"  dora_scale kept in {plural(ranks['dora_scale_kept'], 'module')}: "
            "the norm that it stands for moves with what the update lost"
        )
    by_error = sorted(lowered.items(), key=lambda item: -item[1]["relative_error"])
    for name, item in by_error if verbose else ():
        yield f"    {escape(name)}: {item['from']} -> {item['to']}, off by {item['relative_error']:.2%}"
    untouched = ranks["untouched"]
    if untouched:
        yield f"  rank not lowered: {plural(len(untouched), 'module')}"
    for item in untouched if verbose else untouched[:SHOWN]:
        yield f"    {escape(item['name'])}: {escape(item['reason'], 400)}"
    for line in more(len(untouched), verbose):
        yield f"    {line}"


def span(ranks: list[int]) -> str:
    """32, or 4 to 32."""
    return f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}" if ranks else "none"
