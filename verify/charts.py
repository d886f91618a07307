"""Charts as inline SVG: a logarithmic scale, and marks placed in per cent, so that text has one size on any screen."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil, floor, isfinite, isinf, isnan, log10

from ckptool.report_page import escape

INSET = 2.0
"""Per cent that are free on both sides, so that marks at the ends are seen whole."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MOST_LABELS = 6


@dataclass(frozen=True, slots=True)
class Log:
    """A scale over whole decades, from 10^low to 10^high."""

    low: int
    high: int

    def share(self, value: float) -> float:
        """Where a value stands, from 0 to 1; what is beyond the scale stands at its end."""
        if not isfinite(value):
            return 1.0
        if value <= 0:
            return 0.0
        return min(max((log10(value) - self.low) / (self.high - self.low), 0.0), 1.0)

    def percent(self, value: float) -> float:
        return INSET + (100 - 2 * INSET) * self.share(value)

    @property
    def decades(self) -> range:
        return range(self.low, self.high + 1)

    @property
    def labelled(self) -> range:
        """The decades that have a label: not so many that they touch on a narrow screen."""
        step = ceil((self.high - self.low) / (MOST_LABELS - 1)) or 1
        return range(self.high - (self.high - self.low) // step * step, self.high + 1, step)


def log_of(values: Iterable[float], fewest: int = 3) -> Log:
    """The scale that holds all positive finite values, of at least so many decades."""
    found = [value for value in values if isfinite(value) and value > 0]
    low, high = (floor(log10(min(found))), ceil(log10(max(found)))) if found else (-8, -5)
    return Log(low - max(0, fewest - (high - low)), high)


def power(exponent: int) -> str:
    """10⁻⁴, and 1 and 10 as they are."""
    return {0: "1", 1: "10"}.get(exponent, "10" + str(exponent).translate(SUPERSCRIPTS))


def number(value: object) -> str:
    """A figure of at most three digits that matter, as it is written: 0.005, 2.8 · 10⁻⁴, ∞."""
    found = finite(value)
    if isnan(found):
        return "–"
    if isinf(found):
        return "∞" if found > 0 else "−∞"
    if found == 0:
        return "0"
    if 0.001 <= abs(found) < 100_000:
        return (f"{found:,.0f}" if abs(found) >= 100 else f"{found:.3g}").replace("-", "−")
    return scientific(found)


def scientific(value: float) -> str:
    """2.8 · 10⁻⁴, whatever the size of it."""
    if not isfinite(value) or not value:
        return number(value)
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} · 10{str(int(exponent)).translate(SUPERSCRIPTS)}".replace("-", "−")


def finite(value: object) -> float:
    """A figure of the report as a number again: JSON has texts for infinities, and null for NaN."""
    return float(value) if isinstance(value, int | float | str) else float("nan")


def decibels(value: object) -> str:
    """A PSNR of the report; an infinite one means that nothing differs."""
    return f"{value:.1f} dB" if isinstance(value, float) else "exact" if value == "inf" else "–"


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Across in per cent, down in pixels."""
    return f'<line class="{kind}" x1="{x1:.2f}%" y1="{y1:.1f}" x2="{x2:.2f}%" y2="{y2:.1f}"/>'


def block(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    """A bar; `title` is shown where it is pointed at."""
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect class="{kind}" x="{x:.2f}%" y="{y:.1f}" width="{width:.2f}%" height="{height:.1f}">{inner}</rect>'


def dot(x: float, y: float, kind: str) -> str:
    return f'<circle class="{kind}" cx="{x:.2f}%" cy="{y:.1f}" r="4.5"/>'


def words(x: float, y: float, text: str, kind: str = "tick", anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.2f}%" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def svg(height: int, marks: Iterable[str], label: str = "") -> str:
    """As wide as there is room; without a label it is an ornament of the words beside it."""
    told = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    return f'<svg width="100%" height="{height}" {told}>{"".join(marks)}</svg>'


def plot(height: int, marks: Iterable[str], label: str) -> str:
    """An SVG with room at the left for the labels of its levels."""
    return f'<div class="plot">{svg(height, marks, label)}</div>'


def levels(scale: Log, top: float, bottom: float) -> Iterator[str]:
    """Lines across at each labelled decade of a scale that goes up, with their labels to the left of the chart."""
    for decade in scale.labelled:
        y = bottom - (bottom - top) * scale.share(10.0**decade)
        yield line(0, y, 100, y, "grid")
        yield words(0, y + 4, power(decade), "up", "end")
