"""`ckptool scan`: the command."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ckptool.address import Address, Source
from ckptool.convert.folders import is_index
from ckptool.convert.remote import Place, is_folder, located
from ckptool.convert.scan import MODEL_ENDINGS, Scan, scan_file, scan_folder, scan_index, scan_place
from ckptool.errors import EXIT_FINDINGS, EXIT_OK, EXIT_REFUSED, Unreachable, UsageError
from ckptool.options import SourceType, reporting
from ckptool.report import SCHEMA_VERSION, Report, check_report, finding_data, to_json, write_report
from ckptool.text import escape
from ckptool.words import finding_lines

COLOURS = {"clean": "green", "harmless": "green", "unknown": "yellow", "dangerous": "red", "refused": "red"}
SEVERITY_COLOURS = {"warning": "yellow", "error": "red"}


@click.command("scan", short_help="Say what each pickle would import and call, without doing it.")
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=SourceType())
@click.option("--hash", "with_hash", is_flag=True, help="Compute each file's sha256, which reads all of it.")
@reporting
def command(
    sources: tuple[Source, ...],
    with_hash: bool,
    as_json: bool,
    report: Path | None,
    quiet: bool,
    verbose: bool,
    no_progress: bool,
) -> None:
    """Say what each pickle would import and call, without doing it.

    SRC is a file or a folder, told apart by content. Only directories and pickles are read, never the tensors.
    Calls are graded harmless (known training objects), unknown, or dangerous (they execute, read, write, connect).

    SRC may stand on another machine: hf://owner/repo[@revision]/path, https:// or s3://.

    \b
    Examples:
      ckptool scan model.ckpt
      ckptool scan ~/models --json
      ckptool scan uploads --report scan.sarif
      ckptool scan hf://owner/repo

    Exit codes: 0 clean or harmless, 1 something unknown or dangerous, 3 a file was refused.
    """
    check_report(report, sources)
    reports: list[Report] = []
    worst = EXIT_OK
    counts: dict[str, int] = {}
    for path in sources:
        if isinstance(path, Path) and not path.exists():
            raise UsageError(f"{escape(str(path), 1000)}: there is no such file", "check the path")
    for found in scans(sources, with_hash and bool(as_json or report)):
        worst = max(worst, exit_code(found))
        counts[found.verdict] = counts.get(found.verdict, 0) + 1
        if as_json or report:
            reports.append(scan_data(found))
        if not quiet:
            show(found, verbose, to_stderr=as_json)
    if not counts:
        raise UsageError(
            "no checkpoint was found, so nothing was looked at", "give a file, or a folder that holds models"
        )
    single = len(sources) == 1 and is_one(sources[0])
    if report:
        write_report(report, reports, single)
    if as_json:
        click.echo(to_json(reports, single))
    if not quiet and sum(counts.values()) > 1:
        click.echo(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())), err=as_json)
    sys.exit(worst)


def is_one(source: Source) -> bool:
    """Whether it is one file, as far as the command line says."""
    if isinstance(source, Address):
        return Path(source.name).suffix.lower() in MODEL_ENDINGS
    return not source.is_dir() and not is_index(source)


def scans(sources: tuple[Source, ...], with_hash: bool) -> Iterator[Scan]:
    for source in sources:
        try:
            path = located(source)
        except Unreachable as error:  # the others are looked at all the same
            yield Scan(str(source), None, "refused", error=error)
            continue
        if is_folder(path):
            yield from scan_place(path, with_hash) if isinstance(path, Place) else scan_folder(path, with_hash)
        elif is_index(path):
            yield from scan_index(path, with_hash)
        else:
            yield scan_file(path, with_hash)


def exit_code(found: Scan) -> int:
    if found.error is not None:
        return EXIT_REFUSED
    return EXIT_FINDINGS if found.verdict in ("unknown", "dangerous") else EXIT_OK


def scan_data(found: Scan) -> Report:
    data: Report = {
        "schema_version": SCHEMA_VERSION,
        "path": found.path,
        "sha256": found.sha256,
        "format": found.format,
        "verdict": found.verdict,
        "findings": [finding_data(item) for item in found.findings],
    }
    if found.error is not None:
        data["error"] = {"message": found.error.message, "hint": found.error.hint}
    return data


def show(found: Scan, verbose: bool, to_stderr: bool) -> None:
    """One line for the file, one for each finding; a refusal is two lines on stderr."""
    word = click.style(found.verdict, fg=COLOURS[found.verdict], bold=True)
    click.echo(f"{escape(found.path, 1000)}: {word}{f' ({found.format})' if found.format else ''}", err=to_stderr)
    for line in finding_lines(found.findings, verbose):
        click.echo("  " + click.style(line, fg=SEVERITY_COLOURS.get(line.split(" ", 1)[0])), err=to_stderr)
    if found.error is not None:
        click.echo(f"error: {found.error.message}\nhint: {found.error.hint}", err=True)
