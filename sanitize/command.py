"""`ckptool sanitize`: the command."""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from ckptool.address import Address, Source
from ckptool.convert.crew import crew_size
from ckptool.errors import EXIT_FINDINGS, EXIT_OK, EXIT_REFUSED, UsageError
from ckptool.identify.identity import KINDS
from ckptool.options import FolderType, SourceType, report_path
from ckptool.progress import bar
from ckptool.report import Report, check_report, write_report
from ckptool.sanitize.local import Local
from ckptool.sanitize.policy import CHOICES, Policy
from ckptool.sanitize.policy_file import read_policy
from ckptool.sanitize.receipts.sign import Signer
from ckptool.sanitize.run import Hands, Run, network_note, signature_note
from ckptool.sanitize.sections import sections
from ckptool.sanitize.summary import append_summary
from ckptool.sanitize.words import summary_lines, told_lines, worth
from ckptool.text import escape

COMMANDS = ("::", "##[")
COLOURS = {"clean": "green", "disarmed": "yellow", "quarantined": "yellow", "refused": "red", "crashed": "red"}


LONGEST = 10_000
"""Characters of a line."""


def shard_value(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """I/N: this is part I of N."""
    if value is None:
        return None
    mine, slash, every = value.partition("/")
    if not slash or not all(text.isascii() and text.isdecimal() and len(text) < 7 for text in (mine, every)):
        raise click.BadParameter(f"{value!r} is not I/N, such as 2/8")
    if not 1 <= int(mine) <= int(every):
        raise click.BadParameter(f"{value!r}: the first number is from 1 to the second")
    return int(mine), int(every)


def cluster_value(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """The address of a scheduler."""
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        whole = parts.scheme in ("tcp", "tls") and parts.hostname and parts.port and not parts.path.strip("/")
    except ValueError:
        whole = False
    if not whole:
        raise click.BadParameter(f"{value!r} is no address of a scheduler, such as tcp://HOST:8786")
    return value.rstrip("/")


def hands_of(workers: int | None, cluster: str | None) -> Hands:
    """Who does the jobs."""
    if cluster is None:
        return Local(workers or crew_size())
    if workers is not None:
        raise UsageError(
            "--workers is for this machine, and --cluster has others do it",
            "leave one out; `dask worker --nthreads N` says how many files a machine does at once",
        )
    from ckptool.sanitize.cluster.client import check_extra
    from ckptool.sanitize.cluster.cluster import Cluster

    check_extra()

    return Cluster(cluster)


def report_paths(context: click.Context, parameter: click.Parameter, value: tuple[Path, ...]) -> tuple[Path, ...]:
    return tuple(path for path in (report_path(context, parameter, one) for one in value) if path is not None)


def choice(name: str) -> click.Choice[str]:
    return click.Choice(CHOICES[name])


@click.command("sanitize", short_help="All of it for many files, by a policy, each with a receipt.")
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=SourceType())
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=FolderType(path_type=Path, file_okay=False),
    help="Where outputs, receipts and SHA256SUMS go: a folder, or s3://BUCKET/PREFIX.",
)
@click.option(
    "--policy",
    "policy_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The policy in TOML; options win over it.  [default: [tool.ckptool.sanitize] of ./pyproject.toml]",
)
@click.option("--unknown", type=choice("unknown"), help="A file that names something unknown.  [default: disarm]")
@click.option("--dangerous", type=choice("dangerous"), help="A file that calls something dangerous.  [default: disarm]")
@click.option("--harmless", multiple=True, metavar="NAME", help="An unknown name that counts as harmless (repeatable).")
@click.option("--ema", type=choice("ema"), help="As for prune.")
@click.option("--dtype", type=choice("dtype"), help="Cast as fp16, bf16 or fp8 do.  [default: keep]")
@click.option("--threshold", type=float, metavar="T", help="As for prune.")
@click.option("--verify", type=choice("verify"), help="The proof that an output needs.  [default: tensors]")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), metavar="KIND", help="Refuse other kinds.")
@click.option("--base", "bases", multiple=True, metavar="BASE", help="Refuse other bases; `none` for what has none.")
@click.option("--max-size", metavar="SIZE", help="Refuse larger files.")
@click.option("--max-memory", metavar="SIZE", help="Memory of each file's process.  [default: 1GiB]")
@click.option("--max-output", metavar="SIZE", help="Size of an output.  [default: 16 times the source]")
@click.option(
    "--timeout", type=click.IntRange(1), metavar="SECONDS", help="Time for each file.  [default: by its size]"
)
@click.option("--workers", type=click.IntRange(1, 1024), metavar="N", help="Files at once.  [default: the cores]")
@click.option(
    "--cluster", callback=cluster_value, metavar="ADDRESS", help="Have the machines of a Dask scheduler do it."
)
@click.option("--shard", callback=shard_value, metavar="I/N", help="Only part I of N, for as many machines.")
@click.option("-f", "--force", is_flag=True, help="Repeat what has a receipt.")
@click.option(
    "--sign",
    "key",
    metavar="KEY",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Sign receipts and SHA256SUMS with this private key (PEM, elliptic curve).",
)
@click.option(
    "--pr", "pull_request", is_flag=True, help="Open a pull request with the outputs on the Hub (sources hf://…)."
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each file on stdout.")
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    callback=report_paths,
    metavar="FILE",
    help="Write the report: .json, .sarif, .html, .md or .junit.xml (repeatable).",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Print every finding, not the first few.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar on a terminal.")
def command(
    sources: tuple[Source, ...],
    out: Path | Address,
    policy_file: Path | None,
    workers: int | None,
    cluster: str | None,
    shard: tuple[int, int] | None,
    force: bool,
    key: Path | None,
    pull_request: bool,
    as_json: bool,
    reports: tuple[Path, ...],
    quiet: bool,
    verbose: bool,
    no_progress: bool,
    **given: Any,
) -> None:
    """Scan, convert, prune, cast, identify and verify every file, by a policy, each in a process of its own.

    SRC is a file, a folder (all below it, told by content), a quoted glob, or any of these on another machine:
    hf://owner/repo[@revision][/path], s3://bucket/path, https://host/file. Outputs keep their names below DIR, each
    with a receipt that is written last; what has one is skipped by the next run. A file that breaks its process
    is told as crashed, and harms no other.

    \b
    Examples:
      ckptool sanitize uploads --out clean
      ckptool sanitize uploads --out clean --dangerous quarantine --dtype fp16 --report clean.html
      ckptool sanitize hf://owner/repo 's3://bucket/in/*.ckpt' --out clean
      ckptool sanitize uploads --out clean --policy policy.toml --json --shard 2/8
      ckptool sanitize hf://owner/repo --out clean --pr
      ckptool sanitize uploads --out s3://bucket/clean

    Exit codes: 0 all released clean, 1 something disarmed or quarantined, 2 usage,
    3 something refused or crashed.
    """
    policy = policy_of(policy_file, given)
    for path in reports:
        check_report(path, sources)
    if pull_request:
        from ckptool.sanitize.pull.pull import check_pull

        check_pull(sources, out, shard)
    run = Run(sources, out, policy, hands_of(workers, cluster), shard, force, signer_of(key, quiet))
    count = run.prepare()
    done: list[Report] = []
    drawn = sys.stderr.isatty() and not (quiet or no_progress)
    with bar(count, "files", not drawn, unit="file") as advance:
        for report in run.reports():
            advance(1)
            done.append(report)
            if drawn:
                click.echo("\r\x1b[K", nl=False, err=True)  # the bar makes room, and is drawn again below
            if as_json:
                click.echo(json.dumps(report))
            if not quiet:
                show(report, verbose, as_json)
    done.sort(key=lambda report: str(report["path"]))
    tell(done, run, reports)
    if run.problem is not None:
        raise run.problem
    if not quiet:
        for line in (*summary_lines(done, run.passed_over), network_note(run), signature_note(run)):
            if line:
                click.echo(line, err=True)
    code = exit_code(done, count)
    if pull_request:
        from ckptool.sanitize.pull.command import open_pulls

        failed = open_pulls(run, done, as_json, quiet)
        if failed is not None:
            raise failed
    sys.exit(code)


def policy_of(file: Path | None, given: dict[str, Any]) -> Policy:
    """The policy. Raises UsageError where it asks for what is not installed."""
    policy = read_policy(file, {name: value for name, value in given.items() if value not in (None, ())})
    if policy.verify == "denoise":
        from ckptool.verify.search_command import check_extra

        check_extra("--verify denoise")
    return policy


def signer_of(key: Path | None, quiet: bool) -> Signer | None:
    signer = Signer.read(key) if key is not None else None
    if signer is not None and signer.note and not quiet:
        click.echo(signer.note, err=True)
    return signer


def show(report: Report, verbose: bool, to_stderr: bool) -> None:
    """A line for the file, and what was found in it."""
    word = worth(report)
    told = click.style(word, fg=COLOURS[word], bold=True)
    shown = escape(str(report["path"]), 1000)
    # A name must not be a command to the service that runs this, which reads them at the begin of a line.
    click.echo(f"{'./' * shown.startswith(COMMANDS)}{shown}: {told}", err=to_stderr)
    for line in told_lines(report, verbose):
        click.echo(f"  {escape(line, LONGEST)}", err=to_stderr)  # of a process that a file may have taken over


def tell(done: list[Report], run: Run, reports: tuple[Path, ...]) -> None:
    """Every report that was asked for, and the summary of a GitHub workflow where there is one."""
    for path in reports:
        write_report(path, done, False, sections())
    append_summary(done, run.passed_over)


def exit_code(done: list[Report], count: int) -> int:
    """What was skipped counts as what it was: a second run is as red as the first."""
    words = {worth(report) for report in done}
    if words & {"refused", "crashed"}:
        return EXIT_REFUSED
    if count and not done:
        raise UsageError("no model was found, so nothing was released", "give a file, or a folder that holds models")
    return EXIT_FINDINGS if words - {"clean"} else EXIT_OK
