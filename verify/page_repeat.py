"""What a run can be repeated with: the command line, the files by their hashes, and the versions."""

import platform
import shlex
from importlib.metadata import PackageNotFoundError, version

from ckptool import __version__
from ckptool.report import Report
from ckptool.report_page import escape
from ckptool.verify.page_parts import section

LIBRARIES = ("torch", "diffusers", "transformers", "numpy")


def command_line(report: Report) -> str:
    """The command that gives this report again, as a shell takes it."""
    words = ["ckptool", "verify", report["original"], report["candidate"]]
    for name, value in report["settings"].items():
        option = f"--{name.replace('_', '-')}"
        for item in value if isinstance(value, list) else [value]:
            if item is True:
                words.append(option)
            elif item is not None and item is not False:
                words += [option, str(item)]
    return shlex.join(words)


def versions(ran: bool) -> str:
    """Of everything that the figures depend on."""
    names = LIBRARIES if ran else LIBRARIES[-1:]
    return ", ".join([f"ckptool {__version__}", f"Python {platform.python_version()}", *map(installed, names)])


def installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def repeat_section(report: Report) -> str:
    hashes = report.get("sha256", {})
    files = "".join(
        f"<dt>{side}</dt><dd><code>{escape(path)}</code>{hash_words(hashes.get(path))}</dd>"
        for side, path in (("Original", report["original"]), ("Candidate", report["candidate"]))
    )
    chosen = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(settings_words(item['settings']))}</dd>"
        for name, item in report["denoise"].items()
        if item["settings"]
    )
    return section(
        "repeat",
        "To repeat it",
        "The same two files give the same figures.",
        f"<pre><code>{escape(command_line(report))}</code></pre><dl>{files}"
        f"<dt>Made by</dt><dd>{escape(versions(bool(report['denoise'])))}</dd>{chosen}</dl>",
    )


def settings_words(settings: Report) -> str:
    return ", ".join(f"{key}: {value}" for key, value in settings.items())


def hash_words(found: str | None) -> str:
    return f"<br><small>sha256 <code>{escape(found)}</code></small>" if found else ""
