"""The options that every transforming or reading command shares, under the same names everywhere."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from ckptool.address import SCHEME, Address, Source, source_of
from ckptool.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
ENDINGS = (".json", ".sarif", ".html", ".md", ".junit.xml")


class SourceType(click.ParamType):  # type: ignore[type-arg]  # generic for newer clicks alone
    """A path, or an address on another machine, which a path would not leave as it is."""

    name = "source"

    def convert(self, value: str | Source, _: click.Parameter | None, __: click.Context | None) -> Source:
        return source_of(value) if isinstance(value, str) else value


class FolderType(click.Path):
    """A folder, or an address in a bucket: where outputs go, and what holds them."""

    name = "folder"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        scheme = SCHEME.match(value) if isinstance(value, str) else None
        if scheme is None:
            return value if isinstance(value, Address) else super().convert(value, parameter, context)
        if scheme[1].lower() != "s3":
            raise UsageError(
                f"{scheme[0]}…: outputs lie in a folder, or in a bucket of S3", "give a path, or s3://bucket/prefix"
            )
        return source_of(value)


def report_path(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    """A file for the report, its form told by the ending."""
    if value is not None and not value.name.endswith(ENDINGS):
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
            help="Write the report: .json, .sarif, .html, .md or .junit.xml.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
        click.option("-v", "--verbose", is_flag=True, help="Print every tensor and finding, not the first few."),
        click.option("--no-progress", is_flag=True, help="Show no progress bar on a terminal."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def writing(function: F) -> F:
    """--tied, --max-shard-size, --dry-run, --force and --fail-on-finding, for commands that write a file."""
    options = (
        click.option(
            "--tied",
            type=click.Choice(["copy", "alias"]),
            default="copy",
            show_default=True,
            help="Tensors that share their bytes: write each, or one and name the others in the metadata.",
        ),
        click.option(
            "--max-shard-size", metavar="SIZE", help="Write files of at most SIZE (5GB, 500MiB) and an index."
        ),
        click.option("--dry-run", is_flag=True, help="Show what would be done and write nothing."),
        click.option("-f", "--force", is_flag=True, help="Replace a destination that exists."),
        click.option(
            "--fail-on-finding", is_flag=True, help="Exit 1 when something unknown or dangerous was disarmed."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def transforming(function: F) -> F:
    """SRC, [DST] and all shared options of a command that writes a model; its own options stand above this."""
    function = writing(reporting(function))
    function = click.argument("destination", metavar="[DST]", required=False, type=click.Path(path_type=Path))(function)
    return click.argument("source", metavar="SRC", type=SourceType())(function)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The values of `writing` and `reporting`, as click hands them over."""

    tied: str
    max_shard_size: str | None
    dry_run: bool
    force: bool
    fail_on_finding: bool
    as_json: bool
    report: Path | None
    quiet: bool
    verbose: bool
    no_progress: bool
