"""`ckptool verify`: the command."""

import sys
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptool.address import Address, Source
from ckptool.convert.crew import Advance
from ckptool.convert.read import read
from ckptool.convert.writer import check_sources
from ckptool.errors import EXIT_NO_PARITY, CkptoolError, UsageError
from ckptool.hashes import sha256_of
from ckptool.options import SourceType, reporting
from ckptool.progress import bar
from ckptool.prune.aliases import opened
from ckptool.report import SCHEMA_VERSION, Report, check_report, to_json, write_report
from ckptool.verify.expect import check_number, read_expectation
from ckptool.verify.explain import explain
from ckptool.verify.explanation import Explanation
from ckptool.verify.outcome import report_of
from ckptool.verify.page import evidence_of
from ckptool.verify.words import lines, verdict

if TYPE_CHECKING:
    from ckptool.tensor import Plan
    from ckptool.verify.denoise import ComponentResult
    from ckptool.verify.page import Evidence
    from ckptool.verify.pictures import Pictures

EXTRA = ("torch", "diffusers", "transformers")
INSTALL = "pip install 'ckptool[verify]'"


@click.command("verify", short_help="Prove that a changed model is still the same.")
@click.argument("original", metavar="ORIGINAL", type=SourceType())
@click.argument("candidate", metavar="CANDIDATE", type=SourceType())
@click.option(
    "--expect",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="REPORT",
    help="The conversion's --report FILE.json: what it does not say is unexplained (repeatable, in order).",
)
@click.option("--threshold", type=float, metavar="T", help="Values with |w| < T were made zero.")
@click.option("--relative", is_flag=True, help="T is a fraction of the RMS of each tensor.")
@click.option(
    "--max-error",
    type=float,
    metavar="E",
    help="How far an output may be off where weights changed (relative L2); of the weights with --tensors-only.",
)
@click.option("--tensors-only", is_flag=True, help="Compare the tensors alone: no torch, no denoise step.")
@click.option("--steps", type=click.IntRange(1, 1000), default=4, show_default=True, help="Timesteps of the denoise.")
@click.option("--size", type=click.IntRange(8, 128), default=32, show_default=True, help="Rows of the latent.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of all noise.")
@click.option("--device", type=click.Choice(["cpu", "cuda", "mps"]), default="cpu", show_default=True, help="Runs it.")
@click.option("--base", type=SourceType(), metavar="FILE", help="The checkpoint that an addon is for.")
@click.option(
    "--pictures",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Write before, after and difference of each component's output as PNG.",
)
@click.option("-f", "--force", is_flag=True, help="Replace pictures of an earlier run.")
@reporting
def command(original: Source, candidate: Source, **options: Any) -> None:
    """Prove that a changed model is still the same: each tensor explained, then a denoise step on both.

    First every tensor of CANDIDATE is held against ORIGINAL: identical, the exact rounding of it, zeroed below a
    threshold, its EMA average, a module of lower rank; and every tensor that is gone must be a known kind of loss.
    Then both run through the same networks on the same seeded noise.

    Both may stand on another machine: hf://owner/repo[@revision]/path, https:// or s3://.

    \b
    Examples:
      ckptool verify model.ckpt model.safetensors
      ckptool verify model.ckpt small.safetensors --expect small.json --report small.html
      ckptool verify model.safetensors model-fp16.safetensors --tensors-only

    Exit codes: 0 parity, 2 usage, 3 an input is refused, 4 parity not shown.
    """
    check(original, candidate, options)
    try:
        report, evidence = verify(original, candidate, options)
    except CkptoolError as error:
        tell_refusal(original, candidate, error, options)
        raise
    tell(report, evidence, options)
    if not report["parity"]:
        sys.exit(EXIT_NO_PARITY)


def check(original: Source, candidate: Source, options: dict[str, Any]) -> None:
    """Raises UsageError for what cannot be done, before anything is read."""
    check_report(options["report"], [original, candidate, *options["expect"]])
    check_number("--threshold", options["threshold"])
    check_number("--max-error", options["max_error"])
    if options["pictures"] is not None and not options["force"]:
        from ckptool.verify.pictures import check_free

        check_free(options["pictures"])
    if options["relative"] and options["threshold"] is None:
        raise UsageError("--relative says what a threshold is a fraction of", "give --threshold too")
    if options["tensors_only"]:
        for name in ("base", "pictures"):
            if options[name] is not None:
                raise UsageError(f"--{name} is for the denoise step", "leave out --tensors-only")
        return
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the denoise step needs {', '.join(missing)}", f"{INSTALL}, or compare the tensors alone: --tensors-only"
        )


def verify(original: Source, candidate: Source, options: dict[str, Any]) -> "tuple[Report, Evidence]":
    """The report, and what its page shows beside it."""
    from ckptool.verify.histogram import Histograms

    histograms = Histograms() if is_page(options) else None
    expected = read_expectation(options["expect"], options["threshold"], options["relative"])

    def watch(total: int) -> AbstractContextManager[Advance]:
        return bar(total, "tensors", options["quiet"] or options["no_progress"])

    with ExitStack() as stack:
        theirs = read(candidate, stack)
        ours, _ = opened(read(original, stack), {tensor.name for tensor in theirs.tensors})
        plans = ours, theirs
        explanation = explain(*plans, expected, watch, histograms)
        results, pictures = ({}, {}) if options["tensors_only"] else denoised(*plans, explanation, options)
        for plan in plans:
            check_sources(plan)
    report = report_of((str(original), str(candidate)), plans, explanation, results, settings_of(options))
    if options["report"] or options["as_json"]:
        report["sha256"] = {
            str(path): sha256_of(path) for path in (original, candidate) if isinstance(path, Path) and path.is_file()
        }
    activations = {name: result.activations for name, result in results.items()}
    return report, evidence_of(plans, explanation, histograms, activations, pictures)


def is_page(options: dict[str, Any]) -> bool:
    return options["report"] is not None and options["report"].suffix == ".html"


def denoised(
    original: "Plan", candidate: "Plan", explanation: Explanation, options: dict[str, Any]
) -> "tuple[dict[str, ComponentResult], dict[str, Pictures]]":
    """The second level, on the tensors that the candidate was made from: an average in the place of its weights."""
    from ckptool.verify.denoise import Settings, denoise

    if not (explanation.compared or explanation.rank or explanation.other_naming):
        return {}, {}
    settings = Settings(options["steps"], options["size"], options["seed"], options["device"], options["base"])
    meant = replace(original, tensors=explanation.meant)
    results = denoise(meant, candidate, settings)
    if options["pictures"] is None and not is_page(options):
        return results, {}
    from ckptool.verify.decoded import pictures_between
    from ckptool.verify.pictures import write_pictures

    pictures = pictures_between(meant, candidate, results, settings)
    for name, made in pictures.items() if options["pictures"] is not None else ():
        write_pictures(options["pictures"], name, made, options["force"])
    return results, pictures


def settings_of(options: dict[str, Any]) -> Report:
    """What to repeat the run with."""
    names = ["expect", "threshold", "relative", "max_error", "tensors_only"]
    if not options["tensors_only"]:
        names += ["steps", "size", "seed", "device", "base"]
    return {name: plain(options[name]) for name in names}


def plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path | Address) else value


def tell(report: Report, evidence: "Evidence", options: dict[str, Any]) -> None:
    """The report in every form that was asked for."""
    if options["report"]:
        from ckptool.verify.sections import sections

        write_report(options["report"], [report], True, sections(evidence))
    if options["as_json"]:
        click.echo(to_json([report], True))
    if options["quiet"]:
        return
    click.secho(verdict(report), fg="green" if report["parity"] else "red", bold=True, err=options["as_json"])
    for line in lines(report, options["verbose"]):
        click.echo(line, err=options["as_json"])


def tell_refusal(original: Source, candidate: Source, error: CkptoolError, options: dict[str, Any]) -> None:
    refusal = {
        "schema_version": SCHEMA_VERSION,
        "path": str(candidate),
        "original": str(original),
        "candidate": str(candidate),
        "parity": False,
        "error": {"message": error.message, "hint": error.hint},
    }
    if options["report"]:
        write_report(options["report"], [refusal], True)
    if options["as_json"]:
        click.echo(to_json([refusal], True))
