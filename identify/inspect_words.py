"""The report of `ckptool inspect` as lines of text: a tree, with a bar of bytes for each component."""

from collections.abc import Iterator

from ckptool.identify.families import title
from ckptool.report import Report
from ckptool.text import escape, plural, size

BAR = 24
SHOWN = 8
"""Lines of evidence and metadata, unless all is asked for; problems are always shown."""
EIGHTHS = " ▏▎▍▌▋▊▉"


def inspect_lines(report: Report, verbose: bool) -> Iterator[str]:
    """All that is said of one source."""
    yield f"{escape(report['path'], 1000)}  {headline(report)} ({report['format']})"
    branches = [
        ("components", list(component_lines(report))),
        ("tensors", list(tensor_lines(report))),
        ("facts", list(fact_lines(report))),
        ("savings", list(saving_lines(report))),
        ("goes to", list(folder_lines(report, verbose))),
        ("metadata", list(metadata_lines(report, verbose))),
        ("hashes", list(hash_lines(report["hashes"]))),
        ("told from", cut([escape(line, 300) for line in report["evidence"]], verbose)),
        ("pickles", cut(list(finding_lines(report, verbose)), verbose)),
        ("problems", [escape(line, 600) for line in report["problems"]]),
    ]
    branches = [(name, lines) for name, lines in branches if lines]
    for number, (name, lines) in enumerate(branches):
        last = number == len(branches) - 1
        yield f"{'└' if last else '├'}─ {name}"
        for index, line in enumerate(lines):
            yield f"{' ' if last else '│'}  {'└' if index == len(lines) - 1 else '├'}─ {line}"


def headline(report: Report) -> str:
    """Kind, base and variant in words."""
    words = [report["kind"]]
    if report["algorithm"] and report["algorithm"] != report["kind"]:
        words.append(f"({report['algorithm']})")
    if report["candidates"]:
        words.append(f"for one of {', '.join(map(title, report['candidates']))}: ambiguous")
    elif report["base"]:
        words.append(f"{'of' if report['kind'] in ('checkpoint', 'unet') else 'for'} {title(report['base'])}")
    if report["variant"]:
        words.append(f"[{report['variant']}]")
    return " ".join(words)


def component_lines(report: Report) -> Iterator[str]:
    components = report["components"]
    total = sum(component["bytes"] for component in components.values())
    names = max((len(name) for name in components), default=0)
    for name, component in components.items():
        share = component["bytes"] / total if total else 0.0
        yield (
            f"{name:{names}} {bar(share)} {size(component['bytes']):>8}  {plural(component['tensors'], 'tensor')}, "
            f"{count(component['params'])} parameters, {', '.join(component['dtypes'])}"
        )


def tensor_lines(report: Report) -> Iterator[str]:
    """Each tensor, where all is asked for."""
    for tensor in report.get("tensors", ()):
        yield f"{escape(tensor['name'], 300)}  {tensor['dtype']} {tensor['shape']}"


def bar(share: float, width: int = BAR) -> str:
    """A bar of fixed width; what is there at all is seen."""
    eighths = max(round(share * width * 8), 1 if share > 0 else 0)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (EIGHTHS[rest] if rest else "")).ljust(width, "·")


def count(number: int) -> str:
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= limit:
            return f"{number / limit:.2f} {unit}"
    return str(number)


def fact_lines(report: Report) -> Iterator[str]:
    if report["verdict"] != "clean":
        yield f"pickles: {report['verdict']}"
    if report["precision"]:
        yield f"precision: {report['precision']}"
    prediction = report["prediction"]
    if prediction["type"]:
        yield f"predicts: {prediction['type']} ({escape(prediction['evidence'], 300)})"
    yield from ema_lines(report["ema"])
    if report["native_size"]:
        yield f"native size: {report['native_size']} pixels: {report['size_advice']}"
    if report["compatible_with"]:
        yield f"goes with: {', '.join(map(title, report['compatible_with']))}"


def ema_lines(ema: Report) -> Iterator[str]:
    if not ema["present"]:
        return
    words = ["complete" if ema["complete"] else "incomplete"]
    if ema["relative_distance"] is not None:
        told = f"(told from {ema['sampled_values']:,} values)"
        words.append(f"relative distance {ema['relative_distance']:.3g} from the weights {told}")
    if ema.get("useless"):
        words.append("useless")
    yield f"EMA: {', '.join(words)}"


def saving_lines(report: Report) -> Iterator[str]:
    savings = report["savings"]
    ways = (
        ("ema", "prune drops the EMA"),
        ("training", "convert drops training state"),
        ("fp16", "fp16 casts the rest"),
    )
    for key, words in ways:
        if savings[key]:
            yield f"{words}: {size(savings[key])} less"
    if savings["bytes_after"] < savings["bytes"]:
        yield f"together: {size(savings['bytes'])} -> {size(savings['bytes_after'])}"


def folder_lines(report: Report, verbose: bool) -> Iterator[str]:
    for ui, folder in report["folders"].items():
        yield f"{ui}: {folder}"
    for ui, reason in report["not_for"].items():
        yield f"{ui}: no: {reason}" if verbose or ui == "invokeai" else f"{ui}: no: {reason.partition(':')[0]}"


def metadata_lines(report: Report, verbose: bool) -> list[str]:
    lines = [
        f"{escape(key, 80)}: {escape(value, 2000 if verbose else 100)}" for key, value in report["metadata"].items()
    ]
    return cut(lines, verbose)


def hash_lines(hashes: Report) -> Iterator[str]:
    if "files" in hashes:
        for path, inner in hashes["files"].items():
            yield f"{escape(path, 300)}: sha256 {inner['sha256']}"
        return
    for name, value in hashes.items():
        yield f"{name}: {value or '(of safetensors files only)'}"


def finding_lines(report: Report, verbose: bool) -> Iterator[str]:
    """What its pickles would do; what is harmless only when all is asked for."""
    for finding in report["findings"]:
        if verbose or finding["severity"] != "note":
            what = finding["call"] or finding["reference"]
            where = f"{finding['entry']} byte {finding['offset']:,}".strip()
            yield escape(f"{finding['severity']}: {what} [{finding['message']}; {where}]", 600)


def cut(lines: list[str], verbose: bool) -> list[str]:
    if verbose or len(lines) <= SHOWN:
        return lines
    return [*lines[:SHOWN], f"… and {len(lines) - SHOWN:,} more (-v shows all)"]
