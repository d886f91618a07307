"""`ckptool receipt`: the command."""

import json
import sys
from pathlib import Path

import click

from ckptool.address import Address
from ckptool.errors import EXIT_FINDINGS, EXIT_OK, UsageError
from ckptool.options import FolderType
from ckptool.report import SCHEMA_VERSION
from ckptool.sanitize.outputs import outputs_at
from ckptool.sanitize.receipts.check import check_folder, files_below, signatures
from ckptool.sanitize.receipts.signature import Verifier
from ckptool.sanitize.receipts.sums import receipts_in
from ckptool.text import escape, plural


@click.group("receipt", short_help="Hold what sanitize wrote against its receipts.")
def command() -> None:
    """Hold what sanitize wrote against its receipts."""


@command.command("verify", short_help="Hash every output and compare it with its receipt.")
@click.argument("folder", metavar="DIR", type=FolderType(path_type=Path))
@click.option(
    "--key",
    metavar="PUBLIC",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Check that every receipt, and SHA256SUMS, is signed with this key's private one (PEM).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout; words go to stderr.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def verify(folder: Path | Address, key: Path | None, as_json: bool, quiet: bool) -> None:
    """Hash every output below DIR and compare it with its receipt and with SHA256SUMS; no source is needed.

    DIR is a folder, or s3://BUCKET/PREFIX.

    An output without a receipt, or a receipt without its output, is a problem too; with --key, so is what is not
    signed. Without --key, anybody who can write to DIR could have made outputs and receipts that agree.

    Exit codes: 0 all as it was written, 1 something is not, 2 there is no receipt.
    """
    verifier = Verifier.read(key) if key is not None else None
    with outputs_at(folder).view() as view:
        if next(receipts_in(view.folder), None) is None:
            raise UsageError(f"{escape(str(folder), 1000)}: there is no receipt", "give the --out of a run of sanitize")
        checked = [(view.told(item.path), item.problem) for item in check_folder(view.folder, verifier, view.hashed)]
        checked += view.strange
        signed = len(signatures(files_below(view.folder)[0]))
    problems = [(path, problem) for path, problem in checked if problem]
    if as_json:
        told = [{"path": path, "problem": problem} for path, problem in problems]
        data = {"schema_version": SCHEMA_VERSION, "path": str(folder), "files": len(checked), "problems": told}
        data["signatures"] = {"found": signed, "checked": verifier is not None}
        click.echo(json.dumps(data, indent=2))
    if not quiet:
        for path, problem in problems:
            click.echo(f"{escape(path, 1000)}: {escape(problem, 400)}", err=True)
        words = f"{plural(len(checked), 'file')}, {plural(len(problems), 'problem') if problems else 'all as written'}"
        if signed and verifier is None:
            words += f"; {plural(signed, 'signature')} not checked: --key does it"
        click.echo(words, err=as_json)
    sys.exit(EXIT_FINDINGS if problems else EXIT_OK)
