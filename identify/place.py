"""Where in a UI's folders a file goes: its kind's folder, a safe name, and everything that speaks against it."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ckptool.address import Address, Source
from ckptool.convert.destination import ENDING, PT
from ckptool.convert.remote import Where, is_folder
from ckptool.errors import Refused, UsageError
from ckptool.identify.folders import SAME_AS, UIS, NoPlace, where
from ckptool.identify.identify import identify
from ckptool.identify.identity import Identity
from ckptool.identify.inspection import folder_of, sidecar_of
from ckptool.tensor import Plan
from ckptool.text import escape

# What a UI's folder holds. One that is empty, or holds `models` and nothing of another UI, may be its data folder.
WEBUI = ("webui.py", "launch.py", "webui-user.sh", "webui-user.bat", "modules", "embeddings", "models/Stable-diffusion")
COMFYUI = ("comfy", "comfyui_version.py", "custom_nodes", "models/checkpoints", "models/loras", "models/unet")
MARKERS: dict[str, tuple[str, ...]] = {"a1111": WEBUI, "forge": WEBUI, "sdnext": WEBUI, "comfyui": COMFYUI}
SHARED = "models"

FORBIDDEN = frozenset('/\\:*?"<>|')
"""Separators, and what Windows or the prompts of the UIs (`<lora:name:1>`) give a meaning to."""
MAX_NAME = 180
"""Bytes of a name without its ending: file systems take 255 for all of it."""
SPLIT = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2")
"""Parts of a diffusers pipeline."""
PIPELINE = NoPlace(
    "its layers have the names of a diffusers pipeline, which UIs read from a folder and not from one file",
    "place its parts (unet, vae, text_encoder) one by one, or get the model as a single file",
)
DIFFUSERS_VAE = NoPlace(
    "A1111 reads a VAE by its original names, and this one has those of diffusers",
    "use ComfyUI or SD.Next, or get the VAE with its original names",
)
OLD_HYPERNETWORK = NoPlace(
    "UIs load hypernetworks from .pt files alone",
    "give the original .pt with --convert: it becomes a clean .pt",
)


@dataclass(frozen=True, slots=True)
class Placement:
    """What `place` is going to do."""

    folder: Path
    """Below the root, symlinks resolved; it may have to be made."""
    name: str
    kind: str
    convert: bool
    warnings: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.folder / self.name


def identified(source: Where, plan: Plan) -> Identity:
    """What the source is, its sidecar and the settings of its folder considered."""
    if is_folder(source):
        return identify(plan, None, folder_of(source))
    return identify(plan, sidecar_of(source))


def placement(
    source: Source, plan: Plan, identity: Identity, ui: str, root: Path, convert: bool, said: str | None
) -> Placement:
    """Decide where a file goes; `said` is the kind that a person gave. Writes nothing.

    Raises Refused for what the UI could not load or must not get, UsageError for a root that is not the UI's.
    """
    kind = said or identity.kind
    place = where(kind, ui, identity.base, (tensor.name for tensor in plan.tensors))
    if not isinstance(place, NoPlace):
        place = unloadable(plan, kind, ui) or place
    if isinstance(place, NoPlace):
        raise Refused(f"{label(source)}: {place.reason}", place.hint)
    check_form(source, plan, convert)
    check_root(root, ui)
    folder = inside(root, place.folder)
    ending = PT if kind == "hypernetwork" else ENDING
    name = safe_stem(source) + ending
    pickled = plan.format != "safetensors"
    warnings = warnings_of(source, name, kind, ui, folder, identity, said)
    return Placement(folder, name, kind, pickled, tuple(warnings))


def unloadable(plan: Plan, kind: str, ui: str) -> NoPlace | None:
    """Why the UI could not load a file of this kind in the form that it has."""
    kind = SAME_AS.get(kind, kind)
    if kind == "hypernetwork" and plan.structure is None:
        return OLD_HYPERNETWORK
    parts = {tensor.name.partition(".")[0] for tensor in plan.tensors}
    if kind == "checkpoint" and len(parts.intersection(SPLIT)) > 1:
        return PIPELINE
    in_diffusers_names = any(t.name.startswith(("encoder.down_blocks.", "decoder.up_blocks.")) for t in plan.tensors)
    return DIFFUSERS_VAE if kind == "vae" and ui == "a1111" and in_diffusers_names else None


def check_form(source: Source, plan: Plan, convert: bool) -> None:
    """Raises Refused for what would have to be converted first."""
    if plan.format == "safetensors" or convert:
        return
    if source.is_dir() or plan.format in ("sharded", "diffusers"):
        raise Refused(
            f"{label(source)}: UIs load one file, and this is a model in parts",
            "--convert makes one file of it on the way",
        )
    raise Refused(
        f"{label(source)}: this is a pickle, which can run code when a UI loads it",
        "--convert disarms it on the way: the UI gets a clean file",
    )


def check_root(root: Path, ui: str) -> None:
    """Raises UsageError when the root does not exist or is not the folder of this UI."""
    if not root.is_dir():
        raise UsageError(f"{label(root)}: there is no such folder", f"give the folder in which {UIS[ui]} is installed")
    if has_any(root, MARKERS[ui]):
        return
    for other, markers in MARKERS.items():
        if has_any(root, markers):
            raise UsageError(
                f"{label(root)}: looks like the folder of {UIS[other]}, not of {UIS[ui]}",
                f"give --ui {other}, or the folder of {UIS[ui]}",
            )
    if (root / SHARED).is_dir() or not any(root.iterdir()):
        return
    raise UsageError(
        f"{label(root)}: does not look like the folder of {UIS[ui]}: there is no folder {SHARED!r} in it",
        f"give the folder in which {UIS[ui]} is installed",
    )


def has_any(root: Path, names: Iterable[str]) -> bool:
    return any((root / name).exists() for name in names)


def inside(root: Path, folder: str) -> Path:
    """The folder below the root with symlinks resolved. Raises UsageError when it is elsewhere or no folder."""
    real = root.resolve()
    try:
        path = (real / folder).resolve()
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{label(root / folder)}: its links lead in a circle", "remove one of them") from error
    if not path.is_relative_to(real):
        raise UsageError(
            f"{label(root / folder)}: is a link that leads out of the root, to {label(path)}",
            "give the root that it leads to, or copy the file there yourself",
        )
    for part in (path, *path.parents):
        if part == real:
            break
        if os.path.lexists(part) and not part.is_dir():
            raise UsageError(f"{label(part)}: is in the way: it is no folder", "move it away")
    return path


def safe_stem(source: Source) -> str:
    """The source's name without its ending, fit to be a file's name everywhere and to stand in a prompt."""
    stem = source.stem if isinstance(source, Address) else stem_of(source)
    safe = "".join("_" if c in FORBIDDEN or not c.isprintable() else c for c in stem).strip(" .")
    return safe.encode("utf-8", "replace")[:MAX_NAME].decode("utf-8", "ignore").strip(" .") or "model"


def stem_of(source: Path) -> str:
    if source.name in ("", ".", ".."):
        source = source.resolve()
    name = source.name.removesuffix(".index.json")
    return name if source.is_dir() or "." not in name[1:] else name.rpartition(".")[0]


def warnings_of(
    source: Source, name: str, kind: str, ui: str, folder: Path, identity: Identity, said: str | None
) -> Iterator[str]:
    """What a person should know about the place."""
    if said is not None and identity.kind not in (said, "unknown"):
        yield f"it looks like a file of the kind {identity.kind!r}"
    if Path(name).stem != source.stem and not source.is_dir():
        yield f"its name became {name!r}"
    if ui not in ("a1111", "forge"):
        return
    if kind == "checkpoint" and ".vae." in name.lower():
        yield "A1111 hides files named *.vae.* from its list of checkpoints: give it another name"
    beside = Path(name).stem + ".vae" + ENDING
    if kind == "checkpoint" and (folder / beside).exists():
        yield f"A1111 will use {beside!r}, which is beside it, as its VAE"
    if kind == "vae" and ".vae." in name.lower():
        yield f"A1111 reads {name!r} by itself only beside its checkpoint; here it has to be chosen as the VAE"


def label(path: Source) -> str:
    return escape(str(path), 1000)
