"""One page over all files: a table that can be sorted, then each file with its findings and its proof folded in."""

import base64
import hashlib
from collections import Counter

from ckptool import __version__
from ckptool.report import Report
from ckptool.report_page import STYLE, escape, rows
from ckptool.sanitize.page_style import SCRIPT, SHEET
from ckptool.sanitize.words import WORDS, changes, parity, what_it_is, worth
from ckptool.text import plural, size

COLUMNS = ("result", "file", "what it is", "findings", "before", "after", "parity")
SHOWN = 200
"""Dropped values that are listed for each file."""


def to_page(reports: list[Report]) -> str:
    # The only script that the page may run is this one, told by its hash: no text of a file can become another.
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    allowed = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    worst = sorted(reports, key=lambda report: -WORDS.index(worth(report)))
    body = f"{tiles(reports)}{table(worst)}<h2>File by file</h2>{''.join(map(section, range(len(worst)), worst))}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{allowed}">'
        f"<title>ckptool sanitize</title><style>{STYLE}{SHEET}</style></head><body><h1>ckptool sanitize</h1>{body}"
        f"<footer>ckptool {escape(__version__)}</footer><script>{SCRIPT}</script></body></html>\n"
    )


def tiles(reports: list[Report]) -> str:
    """How many files came out how."""
    counts = Counter(worth(report) for report in reports)
    found = "".join(f'<div class="tile {word}"><b>{counts[word]:,}</b>{word}</div>' for word in WORDS)
    return f'<p>{plural(len(reports), "file")}</p><div class="tiles">{found}</div>'


def table(reports: list[Report]) -> str:
    """The head is made of buttons; without a script the order is from the worst to the best."""
    head = "".join(f'<th><button type="button">{name}</button></th>' for name in COLUMNS)
    body = "".join(line(number, report) for number, report in enumerate(reports))
    return f'<div class="scroll"><table class="all"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def line(number: int, report: Report) -> str:
    word, severities = worth(report), Counter(finding["severity"] for finding in report["findings"])
    grave = severities["error"] + severities["warning"]
    before, after = bytes_of(report)
    shown = "yes" if report.get("parity") else "–"
    cells = (
        (WORDS.index(word), badge(word)),
        (None, f'<a href="#file-{number}">{escape(str(report["path"]))}</a>'),
        (None, "–" if report.get("error") else escape(what_it_is(report))),
        (grave * 1000 + severities["note"], escape(found_words(severities))),
        (before or 0, size(before) if before else "–"),
        (after or 0, size(after) if after else "–"),
        (shown == "yes", shown),
    )
    made = (
        f'<td data-name="{name}"{"" if key is None else f""" data-key="{int(key)}" """}>{text}</td>'
        for name, (key, text) in zip(COLUMNS, cells, strict=True)
    )
    return f"<tr>{''.join(made)}</tr>"


def found_words(severities: "Counter[str]") -> str:
    names = (("error", "dangerous"), ("warning", "unknown"), ("note", "harmless"))
    return ", ".join(f"{severities[key]:,} {word}" for key, word in names if severities[key]) or "none"


def bytes_of(report: Report) -> tuple[int | None, int | None]:
    """Of the model's tensors before, and of the file after."""
    output = report.get("output")
    after = output["bytes"] if output else None
    return report.get("source_bytes"), after


def badge(word: str) -> str:
    return f'<span class="badge {word}">{word}</span>'


def section(number: int, report: Report) -> str:
    """One file, folded; open where something is wrong with it."""
    word = worth(report)
    unfolded = "" if word == "clean" else " open"
    return (
        f'<details id="file-{number}"{unfolded}><summary>{badge(word)} {escape(str(report["path"]))}</summary>'
        f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in facts(report))}</ul>{findings(report)}{proof(report)}"
        f"{dropped(report)}</details>"
    )


def facts(report: Report) -> list[str]:
    if report.get("error"):
        return [f"{report['error']['message']}", f"What to do: {report['error']['hint']}"]
    output = report["output"]
    done = ["Was done by an earlier run, and skipped"] if report["action"] == "skipped" else []
    prediction = (report.get("prediction") or {}).get("type")
    return [
        *done,
        f"It is: {what_it_is(report)}" + (f", {prediction} prediction" if prediction else ""),
        f"Written: {output['path']} ({output['bytes']:,} bytes)",
        f"sha256: {output['sha256']}",
        *(f"Changed: {text}" for text in changes(report)),
        *(f"Note: {text}" for text in report.get("problems", ())),
    ]


def findings(report: Report) -> str:
    found = "".join(
        f'<tr><td><span class="badge {escape(severity)}">{escape(severity)}</span></td>'
        f"<td><code>{escape(call)}</code>{'<br>' if call else ''}{escape(message)}</td>"
        f"<td>{escape(where)}</td><td>{escape(action)}</td></tr>"
        for severity, call, message, where, action in rows(report)
    )
    head = "<tr><th>severity<th>finding<th>where<th>action</tr>"
    count = plural(len(report["findings"]), "finding")
    if not found:
        return ""
    return (
        f'<details open><summary>{count}</summary><div class="scroll"><table class="findings">{head}{found}</table>'
        "</div></details>"
    )


def proof(report: Report) -> str:
    """What verify held against the source."""
    verify = report.get("verify")
    if not verify:
        return "" if report.get("error") else "<p>Not verified.</p>"
    counts = proof_counts(verify)
    denoise = "".join(
        f"<tr><td>{escape(name)}</td><td>{item['relative_l2']}</td><td>{item['max_abs']}</td><td>{item['psnr']}</td></tr>"
        for name, item in verify["denoise"].items()
    )
    head = "<tr><th>component<th>relative L2<th>largest<th>PSNR, dB</tr>"
    steps = f'<div class="scroll"><table>{head}{denoise}</table></div>' if denoise else ""
    return f"<details><summary>{escape(parity(report))}</summary><p>{escape(counts)}</p>{steps}</details>"


def proof_counts(verify: Report) -> str:
    tensors = verify.get("tensors", verify)
    names = (("cast", "rounded"), ("ema", "from the average"), ("renamed", "renamed"), ("dropped", "left out"))
    found = [f"{tensors['identical']:,} identical"]
    for key, word in names:
        count = tensors[key] if isinstance(tensors[key], int) else len(tensors[key])
        found += [f"{count:,} {word}"] if count else []
    return "Tensors: " + ", ".join(found)


def dropped(report: Report) -> str:
    items = report.get("dropped", ())
    if not items:
        return ""
    shown = "".join(f"<li>{escape(item['name'])}: {escape(item['reason'])}</li>" for item in items[:SHOWN])
    more = f"<li>… and {len(items) - SHOWN:,} more</li>" if len(items) > SHOWN else ""
    return f"<details><summary>{plural(len(items), 'value')} left out</summary><ul>{shown}{more}</ul></details>"
