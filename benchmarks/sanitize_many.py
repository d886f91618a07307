"""What sanitize costs: small files by the thousand, and a checkpoint of 2 GB that stays on another machine.

`python -m benchmarks.sanitize_many` builds all of it in a temporary folder (`--folder`), and removes it.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fixtures.models import lightning, state_dict
from fixtures.torchfile import save_zip
from tests.convert.hub_server import serving
from tests.sanitize.sanitizing import embedding, evil, lora, odd, trained, write

COMMAND = (sys.executable, "-m", "ckptool.cli", "sanitize", "--json", "-q")
MIXTURE = (embedding, evil, lora, odd, embedding, trained, embedding, evil)
"""A tenth of a gigabyte in a thousand files: as uploads are, most of them small."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sanitize_many", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where files are written")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--width", type=int, default=2, help="the checkpoint's widths are divided by this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="ckptool-bench-") as folder:
        many(Path(folder), options.files)
        distant(Path(folder), options.width)


def many(folder: Path, count: int) -> None:
    """Small files of every kind, twice: the second time all have a receipt."""
    up = write(folder / "up", {f"{i:05}.ckpt": MIXTURE[i % len(MIXTURE)]() for i in range(count)})
    for what in ("first run", "all done already"):
        seconds, reports = run(up, folder / "out")
        print(f"{count:,} small files, {what}: {seconds:.1f} s, {count / seconds:.0f} files a second{worst(reports)}")


def distant(folder: Path, width: int) -> None:
    """One checkpoint with its average, of which only the weights are wanted, in half the bytes."""
    file = io.BytesIO()
    save_zip(lightning(state_dict("sd1-full-ema", width)), file)
    with serving() as hub:
        hub.files["model.ckpt"] = file.getvalue()
        os.environ["HF_ENDPOINT"] = hub.endpoint
        seconds, (report,) = run("hf://owner/model", folder / "remote", "--ema", "drop", "--dtype", "fp16")
        kept = 2 * report["output"]["bytes"]
        whole = len(hub.files["model.ckpt"])
        more = f"{hub.bytes_asked / kept - 1:.2%} more than is kept"
        print(f"{whole / 1e9:.2f} GB on another machine, pruned and cast: {seconds:.1f} s")
        print(f"  asked for {hub.bytes_asked:,} bytes, {more}{worst([report])}")
        hub.asked.clear()
        subprocess.run((sys.executable, "-m", "ckptool.cli", "scan", "-q", "hf://owner/model"), check=False)
        print(f"scan of it: asked for {hub.bytes_asked:,} bytes, {hub.bytes_asked / whole:.3%}")


def run(source: Path | str, out: Path, *more: str) -> tuple[float, list[dict[str, Any]]]:
    began = time.perf_counter()
    done = subprocess.run((*COMMAND, str(source), "--out", str(out), *more), stdout=subprocess.PIPE, text=True)
    if done.returncode > 1:
        sys.exit(f"error: exit code {done.returncode}")
    return time.perf_counter() - began, [json.loads(line) for line in done.stdout.splitlines()]


def worst(reports: list[dict[str, Any]]) -> str:
    """The most memory that the process of one file took, and the CPU time of them all."""
    used = [report["usage"] for report in reports if "usage" in report]
    if not used:
        return ""
    memory, cpu = max(one["memory"] for one in used), sum(one["cpu_seconds"] for one in used) / len(used)
    return f"; at most {memory / 2**20:.1f} MiB and on average {cpu * 1e3:.1f} ms of CPU in the process of a file"


if __name__ == "__main__":
    main()
