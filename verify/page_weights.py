"""How large the weights of each component are, before and after, with the threshold where one was used."""

from collections.abc import Callable, Collection, Iterator
from math import log10

from ckptool.report_page import escape
from ckptool.verify.charts import Log, block, levels, line, number, plot, power, words
from ckptool.verify.histogram import BINS, LOWEST, Bins, Histograms
from ckptool.verify.page_parts import cards, ordered, section

TOP, BOTTOM, HEIGHT = 26.0, 190.0, 214
"""Pixels: where the highest and the lowest value are drawn, and all of it."""
ZEROS = 7.0
"""Per cent of the width for the values that are zero, which have no place on a logarithmic scale."""
TWO = log10(2)


def weights_section(histograms: Histograms, threshold: float | None, relative: bool, zeroed: Collection[str]) -> str:
    """A chart for each component that has numbers; empty where there are none. `zeroed` are those with a threshold."""
    shown = [name for name in histograms.original if seen(histograms.original[name])]
    if not shown:
        return ""
    drawn = threshold if not relative else None
    said = {
        (True, False): f"The threshold, {number(threshold)}, is drawn in where it was used.",
        (True, True): f"The threshold is {number(threshold)} of the RMS of each tensor, so that no one line shows it.",
    }.get((threshold is not None, relative), "No threshold made any of them zero.")
    return section(
        "weights",
        "Sizes of the weights",
        "How many weights have which absolute value |w|, both axes logarithmic, a bar for each factor of two. Values "
        f"that are exactly 0 stand apart at the left. {said}",
        cards(
            card(name, histograms.original[name], histograms.candidate[name], drawn if name in zeroed else None)
            for name in ordered(shown)
        ),
        [("before", "original"), ("after", "candidate")],
    )


def card(name: str, before: Bins, after: Bins, threshold: float | None) -> str:
    return (
        f'<h3>{escape(name)}</h3>{chart(before, after, threshold)}<p class="quiet">{escape(caption(before, after))}</p>'
    )


def seen(bins: Bins) -> int:
    return sum(bins.counts) + bins.zeros


def caption(before: Bins, after: Bins) -> str:
    """What became zero, and what is no number."""
    every = seen(before) + before.nan
    parts = [f"{every:,} values"]
    if before.zeros or after.zeros:
        parts.append(f"exactly 0: {before.zeros:,} before, {after.zeros:,} now")
    if before.nan or after.nan:
        parts.append(f"NaN: {before.nan:,} before, {after.nan:,} now")
    return " · ".join(parts)


def chart(before: Bins, after: Bins, threshold: float | None) -> str:
    filled = [at for at in range(BINS) if before.counts[at] or after.counts[at]]
    first, last = (min(filled), max(filled)) if filled else (0, 1)
    last = max(last, first + 7)
    highest = max(*before.counts, *after.counts, before.zeros, after.zeros, 1)
    up = Log(0, max(len(str(highest)), 1))
    width = (100 - ZEROS) / (last + 1 - first)
    marks = [*levels(up, TOP, BOTTOM)]
    marks += bars(1, ZEROS - 2, before.zeros, after.zeros, up, "exactly 0")
    for at in range(first, last + 1):
        if at < BINS:
            said = f"{2.0 ** (LOWEST + at):.2g} to {2.0 ** (LOWEST + at + 1):.2g}"
            marks += bars(ZEROS + (at - first) * width, width, before.counts[at], after.counts[at], up, said)
    marks.append(line(0, BOTTOM, 100, BOTTOM, "base"))
    marks.append(words(ZEROS / 2, BOTTOM + 17, "0"))

    def across(value: float) -> float:
        return ZEROS + (log10(value) / TWO - LOWEST - first) * width

    marks += ticks(first, last, across)
    if threshold is not None and threshold > 0:
        marks += limit(across(threshold), threshold)
    return plot(HEIGHT, marks, "histogram of the sizes of the weights")


def bars(x: float, width: float, before: int, after: int, up: Log, said: str) -> Iterator[str]:
    """The original's bar, and over it the candidate's, half as wide."""
    title = f"{said}: {before:,} before, {after:,} now"
    for count, left, wide, kind in (
        (before, x + width * 0.06, width * 0.88, "before"), (after, x + width * 0.28, width * 0.44, "after"),
    ):  # fmt: skip
        if count:
            height = max((BOTTOM - TOP) * up.share(count), 2.0)
            yield block(left, BOTTOM - height, wide, height, kind, title)


def ticks(first: int, last: int, across: Callable[[float], float]) -> Iterator[str]:
    low, high = (LOWEST + first) * TWO, (LOWEST + last + 1) * TWO
    decades = [decade for decade in range(-13, 9) if low <= decade <= high]
    step = len(decades) // 7 + 1
    for decade in decades[::-1][::step]:
        x = across(10.0**decade)
        if x > ZEROS + 3:
            yield line(x, BOTTOM, x, BOTTOM + 4, "base")
            yield words(min(x, 97.0), BOTTOM + 17, power(decade))


def limit(x: float, threshold: float) -> Iterator[str]:
    """The threshold, its words on the side where there is room."""
    x = min(max(x, ZEROS), 100.0)
    anchor, side = ("start", 1.0) if x < 60 else ("end", -1.0)
    yield line(x, TOP - 14, x, BOTTOM, "limit")
    yield words(x + side, TOP - 8, f"threshold {number(threshold)}", "said", anchor)
