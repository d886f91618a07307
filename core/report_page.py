"""Reports for people: a Markdown table, and one self-contained HTML page."""

import html
from collections import Counter

from ckptool.report import Report, Sections
from ckptool.text import escape as printable

MANY = 20
"""Tensors that were left out for one reason are named up to this number."""
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; overflow-wrap: anywhere; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #8884; vertical-align: top; }
td, li { overflow-wrap: anywhere; } code { font-family: ui-monospace, monospace; font-size: .9em; }
.badge { border-radius: .3rem; padding: .1rem .5rem; color: #fff; font-size: .85rem; }
.clean, .harmless, .note { background: #2a7d3f; } .unknown, .warning { background: #9a6700; }
.dangerous, .error, .refused { background: #b42318; }
.scroll { overflow-x: auto; }
.findings td:first-child, .findings td:last-child { white-space: nowrap; }
.findings td:nth-child(3) { width: 14rem; }
@media (max-width: 40rem) {
  .findings tr { display: block; padding: .5rem 0; border-bottom: 1px solid #8884; }
  .findings td { display: block; padding: .1rem 0; border: 0; } .findings th { display: none; }
  .findings td:nth-child(3) { width: auto; } ul { padding-left: 1.2rem; }
}
"""


def status(report: Report) -> str:
    """One word for a report: a scan's verdict, else the worst that was found."""
    if report.get("error"):
        return str(report.get("verdict", "refused"))
    if "verdict" in report:
        return str(report["verdict"])
    severities = {finding["severity"] for finding in report.get("findings", ())}
    return "dangerous" if "error" in severities else "unknown" if "warning" in severities else "clean"


def rows(report: Report) -> list[tuple[str, str, str, str, str]]:
    """Severity, call or name, what it is, where, and what was done, for each finding."""
    return [
        (
            finding["severity"],
            finding["call"] or finding["reference"],
            finding["message"],
            f"{finding['entry']} byte {finding['offset']:,} {finding['opcode']}".strip(),
            finding["action"],
        )
        for finding in report.get("findings", ())
    ]


def facts(report: Report) -> list[str]:
    """What was read, written and left out, a line each."""
    lines = [f"Format: {report['format']}"] if report.get("format") else []
    if report.get("error"):
        lines.append(f"Refused: {report['error']['message']} ({report['error']['hint']})")
    output = report.get("output")
    if output:
        lines.append(
            f"Output: {output['path']} ({output['bytes']:,} bytes, sha256 {output['sha256'] or 'not computed'})"
        )
        lines.append(f"Tensors kept: {report['kept']:,}")
    return lines + dropped(report)


def dropped(report: Report) -> list[str]:
    """One by one, or in sum where one reason holds for many."""
    names: dict[str, list[str]] = {}
    for item in report.get("dropped", ()):
        names.setdefault(item["reason"], []).append(item["name"])
    lines: list[str] = []
    for reason, some in names.items():
        if len(some) > MANY:
            lines.append(f"Dropped: {len(some):,}, such as {some[0]}: {reason}")
        else:
            lines += [f"Dropped: {name}: {reason}" for name in some]
    return lines


def to_markdown(reports: list[Report], sections: Sections | None = None) -> str:
    parts = ["# ckptool report\n"]
    for report in reports:
        parts.append(f"## {cell(report.get('path') or report.get('source') or '')}: {status(report)}\n")
        parts += [f"- {cell(line)}" for line in facts(report)]
        if sections is not None and not report.get("error"):
            parts += sections.markdown(report)
        found = rows(report)
        if found:
            parts += ["", "| severity | call | finding | where | action |", "| --- | --- | --- | --- | --- |"]
            parts += ["| " + " | ".join(cell(text) for text in row) + " |" for row in found]
        parts.append("")
    return "\n".join(parts)


def cell(text: str) -> str:
    """Text that stays inside its cell and is no markup, whatever the file holds: no link, no mention of anybody."""
    safe = "".join(c if c.isprintable() else " " for c in text)
    plain = "".join("\\" + c if c in "\\`*_{}[]<>#|!~&" else c for c in safe)
    for linked in ("@", "://", "www."):
        plain = plain.replace(linked, f"{linked[0]}<!-- -->{linked[1:]}")
    return plain


def escape(text: str) -> str:
    """Text that is no markup in a page, and does not turn what stands after it around."""
    return html.escape(printable(text, 10_000))


def summary(reports: list[Report]) -> str:
    """How many files came out how, where there are several."""
    counts = Counter(status(report) for report in reports)
    words = ", ".join(f"{count:,} {word}" for word, count in sorted(counts.items()))
    return f"<p>{len(reports):,} files: {escape(words)}</p>" if len(reports) > 1 else ""


def to_html(reports: list[Report], sections: Sections | None = None) -> str:
    body = summary(reports) + "".join(section(report, sections) for report in reports)
    style = STYLE + (sections.style if sections is not None else "")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>ckptool report</title><style>{style}</style></head><body><h1>ckptool report</h1>{body}</body></html>\n"
    )


def section(report: Report, sections: Sections | None = None) -> str:
    word = status(report)
    title = escape(str(report.get("path") or report.get("source") or ""))
    lines = "".join(f"<li>{escape(line)}</li>" for line in facts(report))
    found = "".join(
        f'<tr><td><span class="badge {escape(severity)}">{escape(severity)}</span></td>'
        f"<td><code>{escape(call)}</code>{'<br>' if call else ''}{escape(message)}</td>"
        f"<td>{escape(where)}</td><td>{escape(action)}</td></tr>"
        for severity, call, message, where, action in rows(report)
    )
    head = "<tr><th>severity<th>finding<th>where<th>action</tr>"
    table = f'<div class="scroll"><table class="findings">{head}{found}</table></div>' if found else ""
    own = sections.html(report) if sections is not None and not report.get("error") else ""
    return f'<h2>{title} <span class="badge {escape(word)}">{escape(word)}</span></h2><ul>{lines}</ul>{own}{table}'
