"""What the sections of the page have in common."""

from collections.abc import Iterable

from ckptool.report_page import escape
from ckptool.verify.ldm_extra import COMPONENTS


def section(name: str, heading: str, lead: str, body: str, legend: Iterable[tuple[str, str]] = ()) -> str:
    """A part of the page; `legend` has the kind of a mark and what it stands for."""
    keys = "".join(f'<span><i class="swatch {kind}"></i>{escape(words)}</span>' for kind, words in legend)
    shown = f'<p class="legend">{keys}</p>' if keys else ""
    return f'<section id="{name}"><h2>{escape(heading)}</h2><p class="lead">{escape(lead)}</p>{shown}{body}</section>'


def cards(bodies: Iterable[str]) -> str:
    return f'<div class="cards">{"".join(f"<div class=card>{body}</div>" for body in bodies)}</div>'


def ordered(names: Iterable[str]) -> list[str]:
    """Components, each once: those that are run first."""
    known = list(COMPONENTS)
    return sorted(dict.fromkeys(names), key=lambda name: (known.index(name) if name in known else len(known), name))
