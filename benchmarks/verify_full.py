"""The reference step at full size: its figures, its time beside bare networks, and the memory that it takes.

    python -m benchmarks.verify_full sd1-full-ema --cast fp16
    python -m benchmarks.verify_full sdxl-base --dtype F16 --cast bf16 --only unet --folder /large/disk

Builds a file with every tensor of an architecture and random weights, converts or casts it, and runs both.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from fixtures.models import state_dict
from fixtures.tensors import WIDTHS, Tensor, noise, of
from fixtures.torchfile import save_zip

PAUSE = 0.02
"""Seconds between two looks at the memory of a child."""
Report = dict[str, Any]


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(child(json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture")
    parser.add_argument("--cast", choices=["convert", "fp16", "bf16", "fp8"], default="fp16")
    parser.add_argument("--dtype", choices=["F32", "F16"], default="F32", help="of the original")
    parser.add_argument("--factor", type=int, default=1, help="divides all widths")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--only", default="", help="one component")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        original, candidate = Path(name) / "original.ckpt", Path(name) / "candidate.safetensors"
        build(options.architecture, options.factor, options.dtype, original)
        command = [sys.executable, "-m", "ckptool.cli", options.cast, str(original), str(candidate), "--quiet"]
        subprocess.run(command, check=True)
        work = {"paths": [str(original), str(candidate)], "steps": options.steps, "size": options.size}
        for component in [options.only] if options.only else components(original):
            told = work | {"component": component}
            tell(component, run(told | {"bare": True}), run(told | {"bare": False}))
        for key, value in machine().items():
            print(f"{key}: {value}")


def build(architecture: str, factor: int, dtype: str, path: Path) -> None:
    """Values like trained weights, and norms around one as trained norms are."""
    tensors: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in state_dict(architecture, factor).items():
        if tensor.storage.dtype != "F32":
            tensors[name] = tensor
        elif len(tensor.shape) == 1 and name.endswith(".weight"):  # no other weight has one dimension
            values = np.frombuffer(tensor.tobytes(), "<f4") + np.float32(1)
            tensors[name] = of(dtype, tensor.shape, values.astype(f"<f{WIDTHS[dtype]}").tobytes())
        else:
            tensors[name] = noise(dtype, tensor.shape, name)
    save_zip(tensors, path)


def components(path: Path) -> list[str]:
    from ckptool.convert.read import read
    from ckptool.verify.ldm_extra import components_of

    with ExitStack() as stack:
        return list(components_of(read(path, stack)))


def run(work: Report) -> Report:
    """A child that does `work`, with the peak of its anonymous memory."""
    command = [sys.executable, "-m", "benchmarks.verify_full", "child", json.dumps(work)]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(PAUSE)
        assert process.stdout is not None
        printed = process.stdout.read()
    if process.returncode:
        sys.exit(f"a child ended with {process.returncode}")
    result: Report = json.loads(printed.splitlines()[-1])
    return result | {"anonymous": peak}


def anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def child(work: Report) -> Report:
    """One component: of both files as `verify` runs it, or twice the same passes of a bare network in memory."""
    import diffusers  # noqa: F401  # no part of what is measured
    import torch  # noqa: F401
    import transformers  # noqa: F401

    from ckptool.convert.read import read
    from ckptool.verify.denoise import Settings, compare, inputs_of
    from ckptool.verify.sides import sides

    settings = Settings(work["steps"], work["size"])
    with ExitStack() as stack:
        plans = [read(Path(path), stack) for path in work["paths"]]
        inputs = inputs_of(plans[0], settings)
        one, two = (sides(plan, None, inputs.base)[work["component"]] for plan in plans)
        if work["bare"]:
            return bare_passes(work["component"], one, inputs)
        with timed() as spent:
            result = compare(work["component"], one, two, inputs)
        figures = {name: getattr(result, name) for name in ("max_abs", "relative_l2", "psnr", "parted", "skipped")}
        return spent | {"figures": figures}


def bare_passes(component: str, side: Any, inputs: Any) -> Report:
    """The same network with random F32 weights in memory, without a hook: what the passes themselves cost."""
    import torch

    from ckptool.verify.networks import Network, bare, config_of

    config = config_of(component, side.weights)
    module = bare(component, config).to_empty(device="cpu")
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.03)
    for buffer in module.buffers():
        buffer.copy_(torch.arange(buffer.numel()).view(buffer.shape))
    network = Network(component, module.eval(), config, Any, ())  # type: ignore[arg-type]
    with torch.inference_mode():
        list(side.run(network, inputs))
        with timed() as spent:
            for _ in range(2):
                list(side.run(network, inputs))
    return spent


class timed:
    """Fills a dict with the seconds and the CPU seconds of a block."""

    def __enter__(self) -> Report:
        self._spent: Report = {}
        self._start, self._cpu = time.perf_counter(), cpu()
        return self._spent

    def __exit__(self, *_: object) -> None:
        self._spent |= {"seconds": time.perf_counter() - self._start, "cpu": cpu() - self._cpu}


def cpu() -> float:
    used = os.times()
    return used.user + used.system


def tell(component: str, bare: Report, ours: Report) -> None:
    for line in table(component, bare, ours):
        print(line, flush=True)


def table(component: str, bare: Report, ours: Report) -> Iterator[str]:
    yield f"{component}: {json.dumps(ours['figures'])}"
    yield (
        f"  {ours['seconds']:.1f} s, {ours['cpu']:.1f} s of CPU; two bare networks {bare['seconds']:.1f} s, "
        f"{bare['cpu']:.1f} s of CPU: {ours['cpu'] / bare['cpu']:.2f} times"
    )
    yield f"  anonymous memory {ours['anonymous'] / 2**20:,.0f} MiB, of which imports are some 280"


if __name__ == "__main__":
    main()
