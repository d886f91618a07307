"""The report of `verify` as one page that holds all it shows: the verdict first, then what it rests on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptool import __version__
from ckptool.identify.identify import identify
from ckptool.report import Report
from ckptool.report_page import escape
from ckptool.tensor import Plan, Tensor
from ckptool.text import plural
from ckptool.verify.charts import decibels, finite, number
from ckptool.verify.explanation import Explanation
from ckptool.verify.histogram import Histograms
from ckptool.verify.page_activations import Activations, activations_section
from ckptool.verify.page_blocks import blocks_section
from ckptool.verify.page_parts import ordered
from ckptool.verify.page_pictures import pictures_section
from ckptool.verify.page_repeat import repeat_section
from ckptool.verify.page_style import SCRIPT, SCRIPT_HASH, STYLE
from ckptool.verify.page_tensors import tensors_section
from ckptool.verify.page_weights import weights_section
from ckptool.verify.pictures import Pictures
from ckptool.verify.probe import ADVICE
from ckptool.verify.words import happened, metadata_lines, verdict

# Nothing is loaded: no address in the page means anything to a browser but what the page itself holds.
POLICY = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src '{SCRIPT_HASH}'"
NAMED = 3
"""Unexplained tensors that stand in the banner."""
SECTIONS: dict[str, str] = {
    "pictures": "Before and after", "blocks": "Blocks", "weights": "Weights", "activations": "Activations",
    "tensors": "Tensors", "repeat": "Repeat",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What the page shows beside the report, which holds neither pictures nor every layer."""

    kind: str
    """Of the files, for the components of their tensors."""
    tensors: tuple[Tensor, ...] = ()
    """Of the candidate."""
    made_zero: Mapping[str, int] = field(default_factory=dict)
    """Tensor -> how many of its values became zero."""
    threshold: float | None = None
    relative: bool = False
    histograms: Histograms = field(default_factory=Histograms)
    activations: Mapping[str, Activations] = field(default_factory=dict)
    pictures: Mapping[str, Pictures] = field(default_factory=dict)


def evidence_of(
    plans: tuple[Plan, Plan],
    explanation: Explanation,
    histograms: Histograms | None,
    activations: Mapping[str, Activations],
    pictures: Mapping[str, Pictures],
) -> Evidence:
    return Evidence(
        identify(plans[0]).kind, plans[1].tensors, explanation.made_zero, explanation.threshold, explanation.relative,
        histograms or Histograms(), activations, pictures,
    )  # fmt: skip


def to_page(report: Report, evidence: Evidence) -> str:
    sections = {
        "pictures": pictures_section(evidence.pictures),
        "blocks": blocks_section(report),
        "weights": weights_section(
            evidence.histograms, evidence.threshold, evidence.relative, report["tensors"]["zeroed"]
        ),
        "activations": activations_section(evidence.activations),
        "tensors": tensors_section(report, evidence.tensors, evidence.made_zero, evidence.kind),
        "repeat": repeat_section(report),
    }
    shown = {name: text for name, text in sections.items() if text}
    links = "".join(f'<a href="#{name}">{SECTIONS[name]}</a>' for name in shown)
    title = f"{headline(report)}: {Path(report['candidate']).name}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="ckptool {__version__}">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"{banner(report)}{components(report)}<nav>{links}</nav>{''.join(shown.values())}"
        f"</main><script>{SCRIPT}</script></body></html>\n"
    )


def headline(report: Report) -> str:
    return "Parity shown" if report["parity"] else "Parity not shown"


def banner(report: Report) -> str:
    """The verdict, and in one line why."""
    kind = "good" if report["parity"] else "bad"
    why = verdict(report).partition(": ")[2]
    return (
        f'<header class="banner {kind}"><p class="tool">ckptool verify</p><h1>{headline(report)}</h1>'
        f'<p class="why">{escape(why[:1].upper() + why[1:])}.</p>{"".join(reasons(report))}</header>'
    )


def reasons(report: Report) -> Iterator[str]:
    """What speaks against the candidate, the most telling first."""
    found = report["tensors"]["unexplained"]
    lines = [f"{item['name']}: {item['why']}" for item in found[:NAMED]]
    if len(found) > NAMED:
        lines.append(f"and {plural(len(found) - NAMED, 'more tensor')}")
    for name, item in report["denoise"].items():
        if not item["within"]:
            lines.append(f"{name}: {beyond(item)}")
    lines += report["problems"]
    if lines:
        yield f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
    yield from (f'<p class="warning">{escape(words)}</p>' for words in warnings(report["overflow"]))


def warnings(overflow: list[Report]) -> Iterator[str]:
    """What will go wrong with either file, a sentence for each component."""
    for name in ordered(item["component"] for item in overflow):
        largest = [item["max_activation"] for item in overflow if item["component"] == name]
        broken = largest.count("inf")
        if broken:
            yield f"Even in F32 {plural(broken, 'layer')} of the {name} came out infinite or NaN."
        if len(largest) > broken:
            count = plural(len(largest) - broken, "layer")
            yield f"In half precision {count} of the {name} would overflow: {ADVICE.get(name, 'keep it in F32')}."


def beyond(item: Report) -> str:
    if item["skipped"]:
        return str(item["skipped"])
    parted = f", first in {item['parted']}" if item["parted"] else ""
    return f"its output is off by {number(item['relative_l2'])}, {number(item['tolerance'])} is allowed{parted}"


NEAR = 1e-8
"""A cosine as near to 1 as this is told by its distance."""
HEAD = ("Tensors explained", "Output off by", "Allowed", "PSNR", "Cosine", "Largest error")


def components(report: Report) -> str:
    """A row for each component, with how much of it is explained and what its outputs say."""
    parts, outputs = report["tensors"]["components"], report["denoise"]
    names = ordered([*parts, *outputs])
    head = "".join(f"<th>{title}</th>" for title in HEAD[: None if outputs else 1])
    body = "".join(component_row(name, parts.get(name), outputs.get(name), bool(outputs)) for name in names)
    lines = [line.strip() for line in (*happened(report["tensors"], False), *metadata_lines(report["metadata"], False))]
    listed = "".join(f"<li>{escape(line[:1].upper() + line[1:])}</li>" for line in lines)
    return (
        f'<section class="summary"><table class="components"><thead><tr><th>Component</th>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table><ul class="happened">{listed}</ul></section>'
    )


def component_row(name: str, part: Any, output: Any, ran: bool) -> str:
    cells = [("", explained(part))]
    if output is not None and output["skipped"]:
        cells.append((' colspan="5" class="quiet"', f"not run: {escape(output['skipped'])}"))
    elif output is not None:
        kind = "" if output["within"] else ' class="bad"'
        cells += [
            (kind, number(output["relative_l2"])),
            ("", number(output["tolerance"])),
            ("", decibels(output["psnr"])),
            ("", cosine(output["cosine"])),
            ("", number(output["max_abs"])),
        ]
    elif ran:
        cells.append((' colspan="5" class="quiet"', "no network"))
    titled = zip(HEAD, cells, strict=False)
    body = "".join(f'<td data-head="{title}"{kind}>{text}</td>' for title, (kind, text) in titled)
    return f"<tr><th>{escape(name)}</th>{body}</tr>"


def explained(part: Any) -> str:
    if part is None:
        return "–"
    kind = "" if part["explained"] == part["tensors"] else ' class="bad"'
    return f"<span{kind}>{part['explained']:,} of {part['tensors']:,}</span>"


def cosine(value: Any) -> str:
    """Enough digits to tell it from 1."""
    found = finite(value)
    if 0 < abs(1 - found) < NEAR:
        return f"1 {'−' if found < 1 else '+'} {number(abs(1 - found))}"
    return number(value) if found == 1 else f"{found:.9f}".rstrip("0").rstrip(".")
