"""`ckptool convert`: the command."""

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from ckptool.convert.destination import PT, check_destination, check_free, destination_of
from ckptool.convert.read import read
from ckptool.convert.shards import parse_size, split
from ckptool.convert.sidecar import carry, find_sidecar
from ckptool.convert.tied import alias
from ckptool.convert.writer import write, write_shards
from ckptool.errors import EXIT_FINDINGS, CkptoolError
from ckptool.hashes import sha256_of
from ckptool.options import reporting, writing
from ckptool.progress import bar
from ckptool.report import Report, check_report, plan_data, refusal_data, to_json, write_report
from ckptool.tensor import Plan
from ckptool.words import plan_lines, result_lines


@click.command("convert", short_help="Convert a checkpoint to safetensors, disarmed.")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("destination", metavar="[DST]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--tied",
    type=click.Choice(["copy", "alias"]),
    default="copy",
    show_default=True,
    help="Tensors that share their bytes: write each, or one and name the others in the metadata.",
)
@click.option("--max-shard-size", metavar="SIZE", help="Write files of at most SIZE (5GB, 500MiB) and an index.")
@writing
@reporting
def command(
    source: Path,
    destination: Path | None,
    tied: str,
    max_shard_size: str | None,
    dry_run: bool,
    force: bool,
    fail_on_finding: bool,
    as_json: bool,
    report: Path | None,
    quiet: bool,
    verbose: bool,
    no_progress: bool,
) -> None:
    """Convert a checkpoint to safetensors, disarmed: every tensor equal to the bit, nothing executed.

    SRC is a file (.ckpt .pt .pth .bin .safetensors, told apart by content), a sharded *.index.json, or a diffusers
    folder. DST defaults to SRC with the ending .safetensors. A hypernetwork becomes a clean .pt when DST ends in .pt.

    \b
    Examples:
      ckptool convert model.ckpt
      ckptool convert model.ckpt clean.safetensors --report model.html
      ckptool convert pytorch_model.bin.index.json --max-shard-size 5GB
      ckptool convert anime.pt clean/anime.pt

    Exit codes: 0 done, 1 with --fail-on-finding, 2 usage, 3 the input is refused.
    """
    limit = parse_size(max_shard_size) if max_shard_size is not None else None
    target = destination_of(source, destination)
    check_report(report, [source, target])
    try:
        with ExitStack() as stack:
            plan = read(source, stack)
            check_destination(target, plan, force or dry_run)
            if tied == "alias" and target.suffix != PT:
                plan = alias(plan)
            output, plan = convert(plan, source, target, limit, dry_run, force, quiet or no_progress)
        data = plan_data(str(source), plan, output if dry_run or not (as_json or report) else with_hashes(output))
    except CkptoolError as error:
        refusal = [refusal_data(str(source), error.message, error.hint)]
        if report:
            write_report(report, refusal, True)
        if as_json:
            click.echo(to_json(refusal, True))
        raise
    if report:
        write_report(report, [data], True)
    if as_json:
        click.echo(to_json([data], True))
    if not quiet:
        for line in (plan_lines if dry_run else result_lines)(plan, data, verbose):
            click.echo(line, err=as_json)
    if fail_on_finding and any(finding.severity != "note" for finding in plan.findings):
        sys.exit(EXIT_FINDINGS)


def convert(
    plan: Plan, source: Path, target: Path, limit: int | None, dry_run: bool, force: bool, hidden: bool
) -> tuple[Report, Plan]:
    """Write the plan, or say what would be written: the output's description, and the plan as it was written."""
    sidecar, goal, left_out = find_sidecar(source, target, force or dry_run)
    if left_out:
        plan = replace(plan, dropped=(*plan.dropped, left_out))
    if target.suffix == PT and plan.structure is not None:
        plan, limit = replace(plan, dropped=plan.structure.dropped, metadata={}), None
    shards = split(plan, target, limit) if limit else None
    output: Report = {"path": str(target), "sha256": None, "bytes": plan.nbytes}
    if shards:
        output |= {
            "path": str(shards.index_path),
            "files": [{"path": str(path), "sha256": None, "bytes": part.nbytes} for path, part in shards.files],
        }
        for path in (shards.index_path, *(path for path, _ in shards.files)):
            check_free(path, plan, force or dry_run)
    if sidecar is not None:
        output["sidecar"] = str(goal)
    if dry_run:
        return output, plan
    with bar(plan.nbytes, target.name, hidden) as advance:
        if shards:
            output["bytes"] = write_shards(shards, force, advance)
            for file in output["files"]:
                file["bytes"] = Path(file["path"]).stat().st_size
        elif target.suffix == PT:
            from ckptool.convert.hypernetwork import write_pt

            output["bytes"] = write_pt(plan, target, force, advance)
        else:
            output["bytes"] = write(plan, target, force, advance)
    if sidecar is not None:
        carry(sidecar, goal, force)
    return output, plan


def with_hashes(output: Report) -> Report:
    """The same with sha256 of what was written: read once more, so only when a report was asked for."""
    output["sha256"] = sha256_of(Path(output["path"]))
    for file in output.get("files", ()):
        file["sha256"] = sha256_of(Path(file["path"]))
    return output
