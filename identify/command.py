"""`ckptool inspect`: the command."""

import sys
from functools import partial
from pathlib import Path

import click

from ckptool.address import Source
from ckptool.errors import EXIT_OK, CkptoolError, UsageError
from ckptool.identify.inspect_words import inspect_lines
from ckptool.identify.inspection import inspect, refusal_data, with_problems
from ckptool.options import SourceType, reporting
from ckptool.progress import bar
from ckptool.report import Report, Sections, check_report, to_json, write_report
from ckptool.text import escape


@click.command("inspect", short_help="Say what a file is, what is in it, and where it belongs.")
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=SourceType())
@click.option(
    "--hash", "with_hash", is_flag=True, help="Compute sha256, AutoV1-3, BLAKE3 and CRC32, which reads all of it."
)
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
    """Say what a file is, what is in it, and where it belongs.

    SRC is a file (.ckpt .pt .pth .bin .safetensors, told apart by content), a sharded *.index.json, or a diffusers
    folder. Headers and pickles are read, and of tensors a few values. Names and widths tell what it is, and are shown.

    SRC may stand on another machine: hf://owner/repo[@revision]/path, https:// or s3://.

    \b
    Examples:
      ckptool inspect model.safetensors
      ckptool inspect lora.safetensors --json
      ckptool inspect *.ckpt --hash --report models.html
      ckptool inspect hf://owner/repo@v1.0/model.safetensors

    Exit codes: 0 done, 2 usage, 3 a source was refused.
    """
    check_report(report, sources)
    for path in sources:
        if isinstance(path, Path) and not path.exists():
            raise UsageError(f"{escape(str(path), 1000)}: there is no such file", "check the path")
    reports: list[Report] = []
    code = EXIT_OK
    for path in sources:
        try:
            data = inspect(path, partial(bar, hidden=quiet or no_progress) if with_hash else None, verbose)
        except CkptoolError as error:
            code = max(code, error.exit_code)
            data = refusal_data(str(path), error)
            click.echo(f"error: {error.message}\nhint: {error.hint}", err=True)
        reports.append(data)
        if not quiet and "error" not in data:
            for line in inspect_lines(data, verbose):
                click.echo(line, err=as_json)
    if report:
        from ckptool.identify.inspect_page import STYLE, markdown_lines, page_section

        shown = [with_problems(data) for data in reports] if report.suffix == ".sarif" else reports
        write_report(report, shown, len(sources) == 1, Sections(page_section, markdown_lines, STYLE))
    if as_json:
        click.echo(to_json(reports, len(sources) == 1))
    sys.exit(code)
