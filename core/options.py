"""The options that every transforming or reading command shares, under the same names everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
ENDINGS = (".json", ".sarif", ".html", ".md")


def report_path(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    """A file for the report, its form told by the ending."""
    if value is not None and value.suffix not in ENDINGS:
        raise click.BadParameter(f"{str(value)!r} does not end in one of {', '.join(ENDINGS)}")
    if value is not None and not value.parent.is_dir():
        raise click.BadParameter(f"the folder {str(value.parent)!r} does not exist")
    return value


def reporting(function: F) -> F:
    """--json, --report, -q, -v and --no-progress."""
    options = (
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout; words go to stderr."),
        click.option(
            "--report",
            type=click.Path(path_type=Path, dir_okay=False),
            callback=report_path,
            metavar="FILE",
            help="Write the report: .json, .sarif, .html or .md.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
        click.option("-v", "--verbose", is_flag=True, help="Print every tensor and finding, not the first few."),
        click.option("--no-progress", is_flag=True, help="Show no progress bar on a terminal."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def writing(function: F) -> F:
    """--dry-run, --force and --fail-on-finding, for commands that write a file."""
    options = (
        click.option("--dry-run", is_flag=True, help="Show what would be done and write nothing."),
        click.option("-f", "--force", is_flag=True, help="Replace a destination that exists."),
        click.option(
            "--fail-on-finding", is_flag=True, help="Exit 1 when something unknown or dangerous was disarmed."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function
