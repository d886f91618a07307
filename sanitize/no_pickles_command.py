"""`python -m ckptool.sanitize.no_pickles_command FILE…`: the pre-commit hook that keeps pickles out of a repository."""

import sys
from pathlib import Path

import click

from ckptool.convert.scan import counts, scan_file
from ckptool.errors import EXIT_FINDINGS, EXIT_OK
from ckptool.text import escape


@click.command("no-pickles")
@click.argument("files", metavar="FILE...", nargs=-1, type=click.Path(path_type=Path))
def command(files: tuple[Path, ...]) -> None:
    """Fail for every FILE that is a pickle or holds one, by its content and whatever its name."""
    code = EXIT_OK
    for path in files:
        found = scan_file(path)
        if counts(path, found) and found.format not in (None, "safetensors"):
            click.echo(f"{escape(str(path), 1000)}: is a pickle ({found.format}, {found.verdict})", err=True)
            code = EXIT_FINDINGS
    if code:
        click.echo("hint: `ckptool convert FILE` writes the same tensors as safetensors; commit that", err=True)
    sys.exit(code)


if __name__ == "__main__":
    command()
