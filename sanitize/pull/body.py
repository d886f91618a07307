"""The text of a pull request: what was found in each file, what was changed and what was proved, in Markdown.

Names, references and calls are the words of whoever uploaded the files. They stand in code spans, in which nothing is
markup, and cannot end one, leave their cell or call anybody.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from ckptool import __version__
from ckptool.report import Report
from ckptool.report_page import cell
from ckptool.sanitize.policy import Policy
from ckptool.sanitize.pull.files import Offer
from ckptool.sanitize.words import changes, parity, what_it_is, worth
from ckptool.text import escape, plural

MOST = 20_000
"""Characters. The Hub shows the whole of it above the discussion."""
FINDINGS, COMMANDS = 3, 5
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
"""Names that are the same in every shell."""
GRADES = {"error": "dangerous", "warning": "unknown", "note": "harmless"}


def title_of(commit: str, policy: Policy) -> str:
    """The same for the same commit and policy: by it, an earlier pull request is looked for."""
    return f"Safetensors of {commit[:8]} by ckptool (policy {policy.sha256[:8]})"


def marker_of(commit: str, policy: Policy) -> str:
    """The line of a body by which a pull request is known."""
    return f"`ckptool-pull commit={commit} policy={policy.sha256}`"


def is_marked(body: str, commit: str, policy: Policy) -> bool:
    """A line of its own: inside a table it would be somebody's file name."""
    return marker_of(commit, policy) in (line.strip() for line in body.splitlines())


def body_of(repo: str, commit: str, policy: Policy, offers: Sequence[Offer]) -> str:
    """The whole text, at most MOST characters long: tables are cut, and say so."""
    taken = [offer for offer in offers if offer.goal]
    others = [offer for offer in offers if not offer.goal]
    end = [*ending(repo, commit, policy, taken), "", marker_of(commit, policy), ""]
    room = MOST - sum(len(line) + 1 for line in end) - 1000
    parts = [
        f"ckptool {__version__} read the models of commit `{commit}` without running anything in them, and wrote what"
        " they hold as safetensors.",
        "",
        *table(FILES, [file_row(offer) for offer in taken], room // 2),
        *table(SUMS, [sum_row(offer) for offer in taken], room // 4),
    ]
    if others:
        parts += ["Not in this pull request:", "", *table(OTHERS, [other_row(o) for o in others], room // 4)]
    return "\n".join([*parts, *end])


FILES = ("file", "output", "what it is", "found", "changed", "proved")
SUMS = ("output", "sha256 of the output", "sha256 of the file that it was made from")
OTHERS = ("file", "why")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> Iterator[str]:
    """Lines of at most `room` characters."""
    yield line(head)
    yield line(["---"] * len(head))
    for number, row in enumerate(rows):
        text = line(row)
        room -= len(text) + 1
        if room < 0:
            yield line([f"… and {len(rows) - number:,} more", *[""] * (len(head) - 1)])
            break
        yield text
    yield ""


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def file_row(offer: Offer) -> Sequence[str]:
    report = offer.report
    return (
        code(offer.source),
        code(offer.goal) + (" (replaces the file)" if offer.goal == offer.source else ""),
        cell(what_it_is(report)),
        found(report),
        cell(escape(", ".join(changes(report)), 500)) or "nothing",
        cell(parity(report)),
    )


def sum_row(offer: Offer) -> Sequence[str]:
    return code(offer.goal), code(offer.sha256), code(offer.source_sha256) or "not known"


def other_row(offer: Offer) -> Sequence[str]:
    told = found(offer.report) if worth(offer.report) == "quarantined" else ""
    return code(offer.source), "; ".join(text for text in (code(offer.reason, 300), told) if text)


def found(report: Report) -> str:
    """The worst findings with where they are and what was done with them."""
    order = list(GRADES)
    ranked = sorted(
        report["findings"], key=lambda item: order.index(item["severity"]) if item["severity"] in order else 9
    )
    told = [
        f"{GRADES.get(item['severity'], 'unknown')}: {code(item['call'] or item['reference'] or item['message'])}"
        f" in {code(item['entry'] or 'the file', 80)} at byte {item['offset']:,}, {cell(item['action'])}"
        for item in ranked[:FINDINGS]
    ]
    if len(ranked) > FINDINGS:
        told.append(f"and {len(ranked) - FINDINGS:,} more")
    return "; ".join(told) or "nothing"


def code(text: str, most: int = 160) -> str:
    """Text as it stands, on one line, in a code span; what could end the span or the cell, or call somebody, as \\x…"""
    safe = "".join(f"\\x{ord(c):02x}" if c in "`|@<&" else c for c in escape(text, most).strip())
    return f"`{safe}`" if safe else ""


def ending(repo: str, commit: str, policy: Policy, taken: Sequence[Offer]) -> Iterator[str]:
    """What may be deleted, how to check all this, and by which rules it was made."""
    old = [offer for offer in taken if PurePosixPath(offer.source).suffix != ".safetensors"]
    if old:
        yield (
            "Nothing is deleted here. Once this is merged, what reads safetensors no longer needs "
            + ", ".join(code(offer.source) for offer in old[:20])
            + (f" and {plural(len(old) - 20, 'other file')}" if len(old) > 20 else "")
            + "; each of them holds no more than its output but for what the table calls changed."
        )
        yield ""
    commands = [command(repo, commit, policy, offer) for offer in taken if PLAIN.fullmatch(offer.source + offer.goal)]
    if commands:
        yield "To check it, with the number of this pull request in place of N:"
        yield ""
        yield "```sh"
        yield from commands[:COMMANDS]
        yield "```"
        yield ""
    threshold = f"; values below {policy.threshold:g}: made zero" if policy.threshold is not None else ""
    yield (
        f"Policy: files with unknown calls: {policy.unknown}; with dangerous calls: {policy.dangerous}; EMA:"
        f" {policy.ema or 'dropped where loaders do not read it'}; precision: {policy.dtype}{threshold}; proof:"
        f" {policy.verify}."
    )


def command(repo: str, commit: str, policy: Policy, offer: Offer) -> str:
    options = "--tensors-only" + (f" --threshold {policy.threshold:g}" if policy.threshold is not None else "")
    return f"ckptool verify hf://{repo}@{commit}/{offer.source} hf://{repo}@refs/pr/N/{offer.goal} {options}"
