"""What every command that writes a model does around its own step: read, plan, write, report."""

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import click

from ckptool.address import Source
from ckptool.convert.destination import PT, check_destination, check_free, destination_of
from ckptool.convert.read import read
from ckptool.convert.remote import Where, located
from ckptool.convert.shards import parse_size, split
from ckptool.convert.sidecar import carry, find_sidecar
from ckptool.convert.tied import alias
from ckptool.convert.writer import write, write_shards
from ckptool.errors import EXIT_FINDINGS, CkptoolError
from ckptool.hashes import sha256_of
from ckptool.options import Options
from ckptool.progress import bar
from ckptool.report import Report, check_report, plan_data, refusal_data, to_json, write_report
from ckptool.report_lines import lines_section
from ckptool.tensor import Plan
from ckptool.words import naming, plan_lines, result_lines


def nothing_more(_: Plan) -> Report:
    return {}


def no_check(_: Plan) -> None:
    """Nothing has to hold but what the writer checks itself."""


def no_lines(_: Report, __: bool) -> Iterable[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Work:
    """What one command does between reading and writing."""

    step: Callable[[Plan], Plan]
    suffix: str = "-converted"
    """Added to the source's stem in the output's default name; `-converted` only where the names would collide."""
    check: Callable[[Plan], None] = no_check
    """Asked when all bytes are written and before the file gets its name: what it raises leaves no file."""
    report: Callable[[Plan], Report] = nothing_more
    """Keys of the report that are its own, asked for when the bytes have flowed (on a dry run, at once)."""
    lines: Callable[[Report, bool], Iterable[str]] = no_lines
    """What people are told of those keys; True asks for all of it."""


def transform(source: Source, destination: Path | None, work: Work, options: Options) -> None:
    """Run one command from its source to its output, its report and its exit code."""
    limit = parse_size(options.max_shard_size) if options.max_shard_size is not None else None
    target = destination_of(source, destination, work.suffix)
    check_report(options.report, [source, target])
    try:
        with ExitStack() as stack:
            where = located(source)
            plan = read(where, stack)
            check_destination(target, plan, options.force or options.dry_run)
            with naming(source):
                plan = work.step(plan)
            if options.tied == "alias" and target.suffix != PT:
                plan = alias(plan)
            output, plan = finish(plan, where, target, limit, work, options)
            data = plan_data(str(source), plan, output) | work.report(plan)
        if not options.dry_run and (options.as_json or options.report):
            with_hashes(output)
    except CkptoolError as error:
        tell_refusal(source, error, options)
        raise
    tell(plan, data, work, options)
    if options.fail_on_finding and any(finding.severity != "note" for finding in plan.findings):
        sys.exit(EXIT_FINDINGS)


def tell(plan: Plan, data: Report, work: Work, options: Options) -> None:
    """The report in every form that was asked for."""
    if options.report:
        write_report(options.report, [data], True, lines_section(work.lines))
    if options.as_json:
        click.echo(to_json([data], True))
    if not options.quiet:
        for line in (plan_lines if options.dry_run else result_lines)(plan, data, options.verbose):
            click.echo(line, err=options.as_json)
        for line in work.lines(data, options.verbose):
            click.echo(line, err=options.as_json)


def tell_refusal(source: Source, error: CkptoolError, options: Options) -> None:
    refusal = [refusal_data(str(source), error.message, error.hint)]
    if options.report:
        write_report(options.report, refusal, True)
    if options.as_json:
        click.echo(to_json(refusal, True))


def finish(
    plan: Plan, source: Where, target: Path, limit: int | None, work: Work, options: Options
) -> tuple[Report, Plan]:
    """Write the plan, or say what would be written: the output's description, and the plan as it was written."""
    force = options.force or options.dry_run
    sidecar, goal, left_out = find_sidecar(source, target, force)
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
            check_free(path, plan, force)
    if sidecar is not None:
        output["sidecar"] = str(goal)
    if options.dry_run:
        return output, plan

    def check(planned: Plan = plan) -> None:
        work.check(planned)

    with bar(plan.nbytes, target.name, options.quiet or options.no_progress) as advance:
        if shards:
            output["bytes"] = write_shards(shards, options.force, advance, check)
            for file in output["files"]:
                file["bytes"] = Path(file["path"]).stat().st_size
        elif target.suffix == PT:
            from ckptool.convert.hypernetwork import write_pt

            output["bytes"] = write_pt(plan, target, options.force, advance, check)
        else:
            plan = write(plan, target, options.force, advance, check)
            output["bytes"] = target.stat().st_size
    if sidecar is not None:
        carry(sidecar, goal, options.force)
    return output, plan


def with_hashes(output: Report) -> None:
    """Add sha256 of what was written: read once more, so only when a report was asked for."""
    output["sha256"] = sha256_of(Path(output["path"]))
    for file in output.get("files", ()):
        file["sha256"] = sha256_of(Path(file["path"]))
