"""`ckptool place`: the command."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ckptool.address import Address, Source
from ckptool.convert.read import read
from ckptool.convert.remote import located
from ckptool.convert.sidecar import find_sidecar
from ckptool.errors import CkptoolError, UsageError
from ckptool.hashes import sha256_of
from ckptool.identify.folders import KINDS, UIS
from ckptool.identify.identity import Identity
from ckptool.identify.place import Placement, identified, label, placement
from ckptool.identify.place_files import THERE, is_there, put
from ckptool.options import SourceType, reporting
from ckptool.progress import bar
from ckptool.report import Report, check_report, plan_data, refusal_data, to_json, write_report
from ckptool.tensor import Plan
from ckptool.text import escape, size
from ckptool.words import dropped_lines, finding_lines

DRY = "dry run"


@click.command("place", short_help="Put a file where a UI looks for its kind.")
@click.argument("source", metavar="SRC", type=SourceType())
@click.option("--ui", required=True, type=click.Choice(list(UIS)), help="The UI that is to find it.")
@click.option("--root", required=True, metavar="DIR", type=click.Path(path_type=Path), help="The UI's own folder.")
@click.option("--link", is_flag=True, help="Link instead of copying: a hard link where possible, else a symbolic one.")
@click.option("--convert", is_flag=True, help="Disarm a pickle, or join a model in parts, on the way.")
@click.option("--kind", type=click.Choice(KINDS), metavar="KIND", help="What the file is, where it cannot be told.")
@click.option("--dry-run", is_flag=True, help="Show the path and write nothing.")
@reporting
def command(source: Source, **options: Any) -> None:
    """Put a file where a UI looks for its kind, and refuse what the UI could not load.

    Nothing is overwritten, and pickles are refused unless --convert disarms them on the way. The <stem>.yaml beside
    SRC goes with it.

    SRC may stand on another machine: hf://owner/repo[@revision]/path, https:// or s3://.

    \b
    Examples:
      ckptool place lora.safetensors --ui a1111 --root ~/stable-diffusion-webui
      ckptool place model.ckpt --ui comfyui --root ~/ComfyUI --convert
      ckptool place vae.safetensors --ui forge --root ~/forge --link --dry-run

    Exit codes: 0 done or already there, 2 usage or another file has the name, 3 the input is refused.
    """
    check_report(options["report"], [source])
    try:
        with ExitStack() as stack:
            data, lines = placed(source, stack, options)
    except CkptoolError as error:
        deliver([refusal_data(str(source), error.message, error.hint)], options)
        raise
    deliver([data], options)
    if not options["quiet"]:
        for line in lines:
            click.echo(line, err=options["as_json"])


def placed(source: Source, stack: ExitStack, options: dict[str, Any]) -> tuple[Report, list[str]]:
    """Place the file, or on a dry run decide where: the report and what people are told."""
    where = located(source)
    plan = read(where, stack)
    identity = identified(where, plan)
    choice = placement(source, plan, identity, options["ui"], options["root"], options["convert"], options["kind"])
    check_report(options["report"], [choice.path])
    if options["link"] and (choice.convert or not source.is_file()):
        what = "what has to be converted" if isinstance(source, Path) and not source.is_dir() else "a folder"
        what = "what is on another machine" if isinstance(source, Address) else what
        raise UsageError(f"{label(source)}: {what} cannot be linked", "leave out --link, or give a safetensors file")
    sidecar, goal, left_out = find_sidecar(where, choice.path, False)
    if choice.kind == "hypernetwork" and plan.structure is not None:
        plan = replace(plan, dropped=plan.structure.dropped, metadata={})
    if left_out:
        plan = replace(plan, dropped=(*plan.dropped, left_out))
    if options["dry_run"]:
        how = THERE if is_there(where, plan, choice) else DRY
    else:
        with bar(plan.nbytes, choice.name, options["quiet"] or options["no_progress"]) as advance:
            how = put(where, plan, choice, options["link"], advance)
    carried = goal if sidecar is not None else None
    data = report_of(source, plan, choice, identity, how, carried, options)
    return data, list(lines_of(data, plan, options["verbose"]))


def report_of(
    source: Source,
    plan: Plan,
    choice: Placement,
    identity: Identity,
    how: str,
    sidecar: Path | None,
    options: dict[str, Any],
) -> Report:
    written = not options["dry_run"]
    output: Report = {"path": str(choice.path), "sha256": None, "bytes": plan.nbytes}
    if written:
        output["bytes"] = choice.path.stat().st_size
        if options["as_json"] or options["report"]:
            output["sha256"] = sha256_of(choice.path)
    if sidecar is not None:
        output["sidecar"] = str(sidecar)
    own = {
        "ui": options["ui"],
        "kind": choice.kind,
        "algorithm": identity.algorithm,
        "base": identity.base,
        "method": how,
        "warnings": list(choice.warnings),
    }
    return plan_data(str(source), plan, output) | own


def lines_of(data: Report, plan: Plan, verbose: bool) -> Iterator[str]:
    """What was put where, and how."""
    output, path = data["output"], escape(data["output"]["path"], 1000)
    if data["method"] == DRY:
        yield f"{path} (dry run: nothing is written)"
    elif data["method"] == THERE:
        yield f"{path}: {THERE}, with the same content"
    else:
        yield f"{escape(data['source'], 1000)} -> {path}"
    kind = data["kind"] if data["algorithm"] in (None, data["kind"]) else f"{data['kind']} ({data['algorithm']})"
    yield f"  {kind} for {UIS[data['ui']]}, {size(output['bytes'])}, {data['method']}"
    if output.get("sidecar"):
        yield f"  sidecar: {escape(output['sidecar'], 1000)}"
    yield from dropped_lines(plan.dropped, verbose)
    if plan.findings:
        yield "  disarmed:"
    for line in finding_lines(plan.findings, verbose):
        yield f"    {line}"
    for warning in data["warnings"]:
        yield f"  warning: {escape(warning, 400)}"


def deliver(reports: list[Report], options: dict[str, Any]) -> None:
    """The report in every form that was asked for."""
    if options["report"]:
        write_report(options["report"], reports, True)
    if options["as_json"]:
        click.echo(to_json(reports, True))
