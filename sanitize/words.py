"""What people are told of a file that was sanitized."""

from collections import Counter
from collections.abc import Iterator

from ckptool.report import Report
from ckptool.tensor import Finding
from ckptool.text import escape, plural, size
from ckptool.words import finding_lines

WORDS = ("clean", "disarmed", "quarantined", "refused", "crashed")
"""From the best to the worst; what was skipped is what it was."""


def worth(report: Report) -> str:
    """One of WORDS."""
    action = str(report.get("was") if report["action"] == "skipped" else report["action"])
    if action == "released":
        return "disarmed" if report["verdict"] in ("unknown", "dangerous") else "clean"
    return action if action in WORDS else "crashed"


def told_lines(report: Report, verbose: bool) -> Iterator[str]:
    """Below the line of the file."""
    if report.get("error"):
        yield f"error: {report['error']['message']}"
        yield f"hint: {report['error']['hint']}"
    elif report["output"]:
        done = " (was done already)" if report["action"] == "skipped" else ""
        yield f"-> {escape(str(report['output']['path']), 1000)}, {size(report['output']['bytes'])}{done}"
        yield f"   {what_it_is(report)}; {', '.join(changes(report)) or 'nothing left out'}; {parity(report)}"
    fields = Finding.__dataclass_fields__
    findings = [Finding(**{key: value for key, value in item.items() if key in fields}) for item in report["findings"]]
    # Among many files what is harmless would hide what is not; the reports have all of it.
    yield from finding_lines([item for item in findings if verbose or item.severity != "note"], verbose)


def what_it_is(report: Report) -> str:
    kind, base = report.get("kind") or "unknown", report.get("base")
    return f"{kind} for {base}" if base else str(kind)


def changes(report: Report) -> list[str]:
    """What is not as it was, in few words."""
    found = [
        f"without {escape(group)} ({plural(item['tensors'], 'tensor')}, {size(item['bytes'])})"
        for group, item in report.get("removed", {}).items()
    ]
    others = len(report.get("dropped", ())) - sum(item["tensors"] for item in report.get("removed", {}).values())
    if others > 0:
        found.append(f"without {plural(others, 'value')} of the pickle")
    casts = report["cast"] if "cast" in report else report.get("changed", {}).get("cast", [])
    counts: Counter[tuple[str, str]] = Counter()
    for item in casts:
        counts[item["from"], item["to"]] += item.get("tensors", 1)
    found += [f"{plural(n, 'tensor')} from {before} to {after}" for (before, after), n in sorted(counts.items())]
    zeroed = sum(item["values"] for item in report.get("zeroed", {}).values())
    if zeroed:
        found.append(f"{plural(zeroed, 'value')} zeroed")
    return found + [escape(note) for note in report.get("notes", ())]


def parity(report: Report) -> str:
    verify = report.get("verify")
    if not verify:
        return "not verified"
    return (
        "parity shown, through the denoise step" if verify["level"] == "denoise" else "parity shown, tensor by tensor"
    )


def summary_lines(done: list[Report], passed_over: int) -> Iterator[str]:
    yield counted(done) + (f"; {plural(passed_over, 'file')} without a model passed over" if passed_over else "")


def counted(done: list[Report]) -> str:
    """How many files came out how."""
    counts = Counter(worth(report) for report in done)
    skipped = sum(report["action"] == "skipped" for report in done)
    words = [f"{counts[word]:,} {word}" for word in WORDS if counts[word]]
    return ", ".join(words or ["nothing"]) + (f" ({skipped:,} of them done already)" if skipped else "")
