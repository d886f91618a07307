"""`ckptool compat`: the command."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from ckptool.address import Source
from ckptool.convert.read import read
from ckptool.convert.remote import located
from ckptool.errors import EXIT_FINDINGS, EXIT_OK, CkptoolError
from ckptool.identify.compat import Checkpoint, checkpoint_of, compat
from ckptool.identify.compat_words import (
    FITS,
    FITS_NOT,
    finding_of,
    fit_data,
    fit_lines,
    label_data,
    overall,
    refused_data,
    title,
    word_of,
)
from ckptool.identify.place import identified
from ckptool.options import SourceType, reporting
from ckptool.report import SCHEMA_VERSION, Report, check_report, refusal_data, to_json, write_report
from ckptool.words import naming

COLOURS = {FITS: "green", FITS_NOT: "red"}


@click.command("compat", short_help="Say whether adapters and embeddings fit a checkpoint.")
@click.argument("checkpoint", metavar="CHECKPOINT", type=SourceType())
@click.argument("addons", metavar="ADDON...", nargs=-1, required=True, type=SourceType())
@reporting
def command(checkpoint: Source, addons: tuple[Source, ...], **options: Any) -> None:
    """Say whether LoRAs, embeddings, hypernetworks, ControlNets and other addons fit a checkpoint.

    Each module of an ADDON is held against the checkpoint's own layers: its name, and the shape of what it adds.

    Each may stand on another machine: hf://owner/repo[@revision]/path, https:// or s3://.

    \b
    Examples:
      ckptool compat model.safetensors lora.safetensors
      ckptool compat sd-v1-5/ loras/*.safetensors --json

    Exit codes: 0 all fit, 1 one does not or could not be told, 2 usage, 3 a file was refused.
    """
    report: Path | None = options["report"]
    check_report(report, (checkpoint, *addons))
    code = EXIT_OK
    results: list[Report] = []
    data: Report = {"schema_version": SCHEMA_VERSION, "path": str(checkpoint)}
    try:
        with ExitStack() as stack:
            where = located(checkpoint)
            plan = read(where, stack)
            identity = identified(where, plan)
            with naming(checkpoint):
                base = checkpoint_of(plan, identity)
    except CkptoolError as error:
        deliver([refusal_data(str(checkpoint), error.message, error.hint)], options)
        raise
    if not options["quiet"]:
        click.echo(title(str(checkpoint), identity), err=options["as_json"])
    for path in addons:
        result, found = check(base, path, options)
        results.append(result)
        code = max(code, found)
    data["verdict"] = overall(results)
    findings = [finding for result in results if (finding := finding_of(result))]
    data |= {"checkpoint": label_data(identity), "addons": results, "findings": findings}
    deliver([data], options)
    sys.exit(code)


def check(checkpoint: Checkpoint, path: Source, options: dict[str, Any]) -> tuple[Report, int]:
    """One addon's report and exit code; said at once."""
    try:
        with ExitStack() as stack:
            where = located(path)
            plan = read(where, stack)
            identity = identified(where, plan)
            with naming(path):
                fit = compat(checkpoint, plan, identity)
    except CkptoolError as error:
        click.echo(f"error: {error.message}\nhint: {error.hint}", err=True)
        return refused_data(str(path), error), error.exit_code
    if not options["quiet"]:
        word = word_of(fit)
        for line in fit_lines(str(path), identity, fit, options["verbose"]):
            if line.startswith(word):
                line = click.style(word, fg=COLOURS.get(word, "yellow"), bold=True) + line.removeprefix(word)
            click.echo(line, err=options["as_json"])
    return fit_data(str(path), identity, fit), EXIT_OK if fit.fits else EXIT_FINDINGS


def deliver(reports: list[Report], options: dict[str, Any]) -> None:
    """The report in every form that was asked for."""
    if options["report"]:
        write_report(options["report"], reports, True)
    if options["as_json"]:
        click.echo(to_json(reports, True))
