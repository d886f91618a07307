"""Builds the files that are measured, in a process of its own so that its memory counts for nobody else's."""

import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from benchmarks.cases import KEPT, SMALL
from fixtures.models import StateDict, lightning, state_dict, textual_inversion
from fixtures.tensors import noise
from fixtures.torchfile import save_zip

PRUNE = (sys.executable, "-m", "ckptool.cli", "prune")


def main() -> None:
    """`python -m benchmarks.files BUILDER PATH SIZE`: build it and print how many tensors or files it has."""
    name, path, size = sys.argv[1:]
    print(BUILDERS[name](Path(path), size == "quick"))


def half_checkpoint(path: Path, quick: bool) -> int:
    """Stable Diffusion 1 in F16, as most checkpoints are shared: 2.1 GB."""
    tensors = state_dict("sd1", 8 if quick else 1)
    halves = {name: noise("F16", t.shape, name) if t.storage.dtype == "F32" else t for name, t in tensors.items()}
    return save(path, OrderedDict(halves))


def training_checkpoint(path: Path, quick: bool) -> int:
    """Stable Diffusion 1 as training left it, F32 with EMA inside a Lightning checkpoint: 7.7 GB."""
    tensors = state_dict("sd1-full-ema", 8 if quick else 1)
    save_zip(lightning(tensors), path)
    save_zip(lightning(OrderedDict(islice(tensors.items(), 2))), path.with_name(SMALL))
    return len(tensors)


def training_checkpoint_and_kept(path: Path, quick: bool) -> int:
    """The same, and beside it what pruning leaves: 4.3 GB."""
    count = training_checkpoint(path, quick)
    command = [*PRUNE, str(path), str(path.with_name(KEPT)), "--quiet"]
    subprocess.run(command, check=True)
    return count


def wide_checkpoint(path: Path, quick: bool) -> int:
    """The first 2.1 GB of Stable Diffusion 1 in F32."""
    tensors: StateDict = OrderedDict()
    room = 2_100_000 if quick else 2_100_000_000
    for name, tensor in state_dict("sd1", 32 if quick else 1).items():
        room -= tensor.storage.nbytes
        if room > 0:
            tensors[name] = tensor
    return save(path, tensors)


def one_tensor(path: Path, quick: bool) -> int:
    """A single tensor of 4.4 GB, beyond what 32 bits count."""
    return save(path, OrderedDict(weight=noise("F32", (1_100 if quick else 1_100_000, 1_000), "weight")))


def small_tensors(path: Path, quick: bool) -> int:
    """50,000 tensors of 1 KiB."""
    names = (f"blocks.{index // 10}.layers.{index % 10}.weight" for index in range(500 if quick else 50_000))
    return save(path, OrderedDict((name, noise("F32", (16, 16), name)) for name in names))


def two_thousand(path: Path, quick: bool) -> int:
    """The first 2,000 tensors of Stable Diffusion XL, with narrow layers: only their number matters here."""
    return save(path, OrderedDict(islice(state_dict("sdxl-base", 32).items(), 200 if quick else 2_000)))


def collection(path: Path, quick: bool) -> int:
    """What a UI's folders hold: of ten files four embeddings, three adapters of 50 tensors, three LoRAs of 264."""
    lora = list(state_dict("lora-kohya-sd1", 64).items())
    count = 20 if quick else 1_000
    for index in range(count):
        folder = path / f"{index // 100:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        if index % 10 < 4:
            save_zip(textual_inversion(), folder / f"{index:04d}.pt")
        else:
            save(folder / f"{index:04d}.pt", OrderedDict(lora[: 50 if index % 10 < 7 else 264]))
    return count


def nothing(path: Path, quick: bool) -> int:
    """For what needs no file."""
    return 0


def save(path: Path, tensors: StateDict) -> int:
    """Write a plain state dict, as torch.save would, and return the number of its tensors."""
    save_zip({"state_dict": tensors}, path)
    return len(tensors)


BUILDERS: dict[str, Callable[[Path, bool], int]] = {
    build.__name__: build
    for build in (
        half_checkpoint,
        training_checkpoint,
        training_checkpoint_and_kept,
        wide_checkpoint,
        one_tensor,
        small_tensors,
        two_thousand,
        collection,
        nothing,
    )
}

if __name__ == "__main__":
    main()
