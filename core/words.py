"""What commands tell people about a plan and its result, as lines of text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ckptool.address import Source
from ckptool.errors import CkptoolError
from ckptool.report import Report
from ckptool.tensor import Dropped, Finding, Plan
from ckptool.text import escape, plural, size

SHOWN = 10
FEW = 3


@contextmanager
def naming(source: Source) -> Iterator[None]:
    """An error within is about this file and says so, if it did not already."""
    label = escape(str(source), 1000)
    try:
        yield
    except CkptoolError as error:
        if not error.message.startswith(label):
            error.message = f"{label}: {error.message}"
        raise


def result_lines(plan: Plan, report: Report, verbose: bool) -> Iterator[str]:
    """After writing: what came out, what was left out, what was disarmed."""
    output = report["output"]
    yield f"{escape(report['source'], 1000)} -> {escape(output['path'], 1000)}"
    yield f"  {plural(len(plan.tensors), 'tensor')}, {size(output['bytes'])}, from {plan.format}"
    for file in output.get("files", ()):
        yield f"  {escape(file['path'], 1000)}  {size(file['bytes'])}"
    if output.get("sidecar"):
        yield f"  sidecar: {escape(output['sidecar'], 1000)}"
    yield from dropped_lines(plan.dropped, verbose)
    if plan.findings:
        yield "  disarmed:"
    for line in finding_lines(plan.findings, verbose):
        yield f"    {line}"


def plan_lines(plan: Plan, report: Report, verbose: bool) -> Iterator[str]:
    """Before writing: the tensors that would be written."""
    yield f"{escape(report['source'], 1000)} -> {escape(report['output']['path'], 1000)} (dry run: nothing is written)"
    yield f"  {plural(len(plan.tensors), 'tensor')}, {size(plan.nbytes)}, from {plan.format}"
    for tensor in plan.tensors if verbose else plan.tensors[:SHOWN]:
        yield f"    {escape(tensor.name)}  {tensor.dtype} {list(tensor.shape)}"
    for line in more(len(plan.tensors), verbose):
        yield f"    {line}"
    yield from dropped_lines(plan.dropped, verbose)
    if plan.findings:
        yield "  disarmed:"
    for line in finding_lines(plan.findings, verbose):
        yield f"    {line}"


def dropped_lines(dropped: tuple[Dropped, ...], verbose: bool) -> Iterator[str]:
    """What is left out, one by one; many that share a reason together, unless everything is asked for."""
    if dropped:
        yield f"  left out: {plural(len(dropped), 'value')}"
    reasons: dict[str, list[str]] = {}
    for item in dropped:
        reasons.setdefault(item.reason, []).append(item.name)
    lines = [
        line
        for reason, names in reasons.items()
        for line in ([many(reason, names)] if len(names) > FEW and not verbose else each(reason, names))
    ]
    for line in lines if verbose else lines[:SHOWN]:
        yield f"    {line}"
    for line in more(len(lines), verbose):
        yield f"    {line}"


def many(reason: str, names: list[str]) -> str:
    return f"{len(names):,} × {escape(reason, 400)}: {escape(names[0], 80)}, …, {escape(names[-1], 80)}"


def each(reason: str, names: list[str]) -> list[str]:
    return [f"{escape(name)}: {escape(reason, 400)}" for name in names]


def finding_lines(findings: Sequence[Finding], verbose: bool) -> Iterator[str]:
    """The findings one by one; notes of one kind together, unless everything is asked for."""
    notes: dict[str, list[Finding]] = {}
    grave = 0
    for item in findings:
        if verbose or item.severity != "note":
            grave += 1
            if verbose or grave <= SHOWN:
                yield finding_line(item)
        else:
            notes.setdefault(item.message, []).append(item)
    yield from more(grave, verbose)
    for message, items in notes.items():
        yield finding_line(items[0]) if len(items) == 1 else f"note    {len(items)} × {message}: {examples(items)}"


def examples(findings: list[Finding]) -> str:
    names = list(dict.fromkeys(item.reference.rpartition(".")[2] for item in findings if item.reference))
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def finding_line(finding: Finding) -> str:
    """Severity, what, and where: one line."""
    what = finding.call or finding.reference
    where = f"{finding.entry + ' ' if finding.entry else ''}byte {finding.offset:,}"
    return f"{finding.severity:7} {what + '  ' if what else ''}[{finding.message}; {where}]"


def more(count: int, verbose: bool) -> Iterator[str]:
    if not verbose and count > SHOWN:
        yield f"… and {count - SHOWN:,} more (-v shows all)"
