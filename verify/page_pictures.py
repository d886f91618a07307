"""Before, after and difference of each component's output, side by side."""

from collections.abc import Mapping

from ckptool.report_page import escape
from ckptool.text import plural
from ckptool.verify.charts import number
from ckptool.verify.page_parts import ordered, section
from ckptool.verify.pictures import Pictures
from ckptool.verify.png import data_uri, size_of

STRIP = 3
"""What is so many times as wide as it is high is shown in strips, one below the other."""


def pictures_section(found: Mapping[str, Pictures]) -> str:
    """Empty where nothing was drawn."""
    if not found:
        return ""
    return section(
        "pictures",
        "Before and after",
        "What both files make of the same seeded noise and the same seeded text. No prompt was read: these are "
        "pictures of nothing, and alike where the files are.",
        "".join(row(name, found[name]) for name in ordered(found)),
    )


def row(name: str, pictures: Pictures) -> str:
    sides = (
        (pictures.original, "before", "original"),
        (pictures.candidate, "after", "candidate"),
        (pictures.difference, pictures.amplified, "difference of the two"),
    )
    shown = "".join(figure(data, caption, f"{name}: {alt}") for data, caption, alt in sides)
    scale = f"Black is {number(pictures.low)}, white is {number(pictures.high)}."
    told = [pictures.label + ".", scale, difference_words(pictures)]
    if pictures.broken:
        told.append(
            f"{plural(pictures.broken, 'value')} of the candidate infinite or NaN, and white in the difference."
        )
    columns, rows = size_of(pictures.original)
    strips = " strips" if columns > STRIP * rows else ""
    return (
        f'<div class="card wide{strips}"><h3>{escape(name)}</h3><div class="three">{shown}</div>'
        f'<p class="quiet">{escape(" ".join(told))}</p></div>'
    )


def difference_words(pictures: Pictures) -> str:
    if pictures.factor is None:
        return "Both are equal to the last bit, so that the difference is black."
    if pictures.factor > 1:
        return f"The difference is amplified {pictures.factor:,.0f} times."
    return "The difference is not amplified."


def figure(data: bytes, caption: str, alt: str) -> str:
    columns, rows = size_of(data)
    return (
        f'<figure><img src="{data_uri(data)}" width="{columns}" height="{rows}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
