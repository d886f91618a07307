"""Roots that are none, links that lead out, disks that are full, and deaths half way: nothing is left, nothing lost."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptool.convert.read import read
from ckptool.convert.writer import ignore
from ckptool.errors import Unwritable, UsageError
from ckptool.identify.place import Placement
from ckptool.identify.place_files import convert, copy_in, link_in, made
from tests.convert.converting import ckptool
from tests.convert.test_no_room import CKPTOOL, with_little_room
from tests.identify.fitting import scaled, zeros
from tests.identify.test_place import files_below, place, root_of


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    shapes = dict(list(scaled("lora-kohya-sd1", 16).items())[-300:])
    return zeros({name: shape for name, (_, shape) in shapes.items()}, tmp_path / "style.safetensors")


def large(path: Path) -> Path:
    """A LoRA of some 60 MB."""
    weights = {
        f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_{n}_attn2_to_k.lora_{half}.weight": torch.ones(shape)
        for n in range(10)
        for half, shape in (("down", (512, 768)), ("up", (1024 * 2, 512)))
    }
    save_file(weights, path)
    return path


# --- the root ----------------------------------------------------------------------------------------------


def test_a_root_that_does_not_exist_or_is_another_ui(lora: Path, tmp_path: Path) -> None:
    assert place(lora, "a1111", tmp_path / "nothing").code == 2
    assert place(lora, "a1111", lora).code == 2
    ran = place(lora, "a1111", root_of("comfyui", tmp_path))
    assert (ran.code, len(ran.err.splitlines())) == (2, 2)
    assert "looks like the folder of ComfyUI" in ran.err
    assert place(lora, "comfyui", root_of("a1111", tmp_path)).code == 2
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.png").write_bytes(b"")
    assert place(lora, "comfyui", tmp_path / "pictures").code == 2
    assert files_below(tmp_path / "comfyui") | files_below(tmp_path / "a1111") == set()
    assert files_below(tmp_path / "pictures") == {"cat.png"}


@pytest.mark.parametrize("ui", ["a1111", "comfyui"])
def test_an_empty_folder_or_one_with_models_is_a_data_folder(ui: str, lora: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert place(lora, ui, tmp_path / "data").code == 0
    assert len(files_below(tmp_path / "data")) == 1
    assert place(lora, ui, tmp_path / "data").code == 0


# --- links that lead out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["models", "models/Lora"])
@pytest.mark.parametrize("options", [(), ("--link",), ("--dry-run",)])
def test_a_folder_that_leads_out_of_the_root_is_refused(
    part: str, options: tuple[str, ...], lora: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    (root / "modules").mkdir(parents=True)
    (tmp_path / "elsewhere" / "Lora").mkdir(parents=True)
    (root / part).parent.mkdir(exist_ok=True)
    (root / part).symlink_to(tmp_path / "elsewhere")
    ran = place(lora, "a1111", root, *options)
    assert (ran.code, len(ran.err.splitlines())) == (2, 2)
    assert "leads out of the root" in ran.err
    assert files_below(tmp_path / "elsewhere") == set()


def test_a_link_that_stays_inside_is_followed(lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    (root / "big").mkdir()
    (root / "models/Lora").symlink_to(root / "big")
    assert place(lora, "a1111", root).code == 0
    assert (root / "big/style.safetensors").is_file()


def test_the_root_itself_may_be_a_link(lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    (tmp_path / "short").symlink_to(root)
    assert place(lora, "a1111", tmp_path / "short").code == 0
    assert files_below(root) == {"models/Lora/style.safetensors"}


def test_a_dangling_link_or_a_file_in_the_place_of_the_folder(lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    (root / "models/Lora").write_text("a file")
    assert place(lora, "a1111", root).code == 2
    (root / "models/Lora").unlink()
    (root / "models/Lora").symlink_to(tmp_path / "not there")
    assert place(lora, "a1111", root).code == 2
    assert not (tmp_path / "not there").exists()


def test_a_loop_of_links(lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    (root / "models/Lora").symlink_to(root / "models/Loop")
    (root / "models/Loop").symlink_to(root / "models/Lora")
    ran = place(lora, "a1111", root)
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 2


def test_a_source_behind_a_link_is_copied_not_its_link(lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    (tmp_path / "alias.safetensors").symlink_to(lora)
    assert place(tmp_path / "alias.safetensors", "a1111", root).code == 0
    assert not (root / "models/Lora/alias.safetensors").is_symlink()
    assert (root / "models/Lora/alias.safetensors").read_bytes() == lora.read_bytes()


def test_a_link_to_a_link_leads_to_the_file(lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    (tmp_path / "alias.safetensors").symlink_to("style.safetensors")
    assert place(tmp_path / "alias.safetensors", "a1111", root, "--link").code == 0
    assert not (root / "models/Lora/alias.safetensors").is_symlink()
    assert os.path.samefile(root / "models/Lora/alias.safetensors", lora)


@pytest.mark.parametrize("way", ["copy", "link", "convert"])
def test_a_file_that_appears_meanwhile_is_not_overwritten(way: str, lora: Path, tmp_path: Path) -> None:
    """Between the look and the write somebody else may have put a file there."""
    target = tmp_path / "there.safetensors"
    target.write_text("mine")
    with ExitStack() as stack:
        plan = read(lora, stack)
        chosen = Placement(tmp_path, target.name, "lora", True, ())
        with pytest.raises(UsageError, match="exists already"):
            {
                "copy": lambda: copy_in(plan, target, ignore),
                "link": lambda: link_in(lora, target),
                "convert": lambda: convert(plan, chosen, ignore),
            }[way]()
    assert target.read_text() == "mine"
    assert set(os.listdir(tmp_path)) == {"style.safetensors", "there.safetensors"}


def test_a_link_to_another_file_system_is_symbolic(tmp_path: Path, lora: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        memory = Path("/proc/self")  # then nothing can be made there, and the attempt says so
    folder = memory / f"ckptool-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        assert place(lora, "comfyui", memory, "--link").code in (2, 3)
        return
    try:
        ran = place(lora, "comfyui", root_of("comfyui", folder), "--link")
        assert ran.code == 0
        assert "symbolic link" in ran.out
        goal = folder / "comfyui/models/loras/style.safetensors"
        assert goal.is_symlink()
        assert goal.resolve() == lora.resolve()
        assert place(lora, "comfyui", folder / "comfyui").code == 0
    finally:
        shutil.rmtree(folder)


# --- no room, no permission, no time -----------------------------------------------------------------------


@pytest.mark.parametrize("convert", [False, True])
def test_a_disk_that_becomes_full_leaves_nothing(convert: bool, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    source = large(tmp_path / "l.safetensors")
    options: list[str] = []
    if convert:
        torch.save({"x.lora_down.weight": torch.ones(4 << 20)}, tmp_path / "l.ckpt")
        source, options = tmp_path / "l.ckpt", ["--convert", "--kind", "lora"]
    before = source.read_bytes()
    ran = with_little_room("place", source, "--ui", "a1111", "--root", root, *options)
    assert ran.returncode == 3, ran
    assert len(ran.stderr.splitlines()) == 2
    assert "make room" in ran.stderr
    assert files_below(root) == set()
    assert not (root / "models/Lora").exists()
    assert source.read_bytes() == before


def test_a_sidecar_that_does_not_fit_keeps_the_model_away_too(lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    lora.with_suffix(".yaml").write_text("#" * 900_000)
    ran = with_little_room("place", lora, "--ui", "a1111", "--root", root, limit=800_000)
    assert ran.returncode == 3, ran
    assert files_below(root) == set()


def test_a_folder_that_takes_no_files(lora: Path) -> None:
    """/proc takes none, from the administrator either."""
    ran = place(lora, "comfyui", Path("/proc/self"), "--kind", "lora")
    assert ran.code in (2, 3)
    assert len(ran.err.splitlines()) == 2


def test_a_folder_that_cannot_be_made() -> None:
    with pytest.raises(Unwritable, match="cannot be written"), made(Path("/proc/ckptool/models")):
        pass


def interrupted(folder: Path, left: str = "") -> None:
    """Work that makes `folder`, leaves a file in it where one is named, and is interrupted."""
    with made(folder):
        assert folder.is_dir()
        if left:
            (folder / left).write_text("")
        raise KeyboardInterrupt


def test_a_folder_that_was_made_goes_when_the_work_fails(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "old/new/newer")
    assert os.listdir(tmp_path / "old") == []
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "old/new", "somebody's")
    assert os.listdir(tmp_path / "old/new") == ["somebody's"]


def test_a_folder_without_permission(lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    (root / "models").chmod(0o555)
    ran = place(lora, "a1111", root)
    (root / "models").chmod(0o755)
    if os.geteuid() == 0:  # whom permissions do not stop
        assert ran.code == 0
    else:
        assert (ran.code, len(ran.err.splitlines())) == (3, 2)
        assert files_below(root) == set()


@pytest.mark.parametrize("options", [(), ("--convert", "--kind", "lora")])
def test_a_death_half_way_leaves_nothing_or_all(options: tuple[str, ...], tmp_path: Path) -> None:
    source = large(tmp_path / "l.safetensors")
    if options:
        torch.save({f"w{n}.lora_down.weight": torch.ones(1 << 20) for n in range(12)}, tmp_path / "l.ckpt")
        source = tmp_path / "l.ckpt"
    size = source.stat().st_size
    for kill in range(8):
        root = root_of("a1111", tmp_path / str(kill))
        command = [CKPTOOL, "place", str(source), "--ui", "a1111", "--root", str(root), *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.02 + 0.05 * kill)
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = files_below(root)
        assert left <= {"models/Lora/l.safetensors"}
        if left:
            assert (root / "models/Lora/l.safetensors").stat().st_size > size * 0.99
        shutil.rmtree(root)


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    source = large(tmp_path / "l.safetensors")
    command = [CKPTOOL, "place", str(source), "--ui", "a1111", "--root", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.wait()
    assert files_below(root) <= {"models/Lora/l.safetensors"}


def test_the_report_may_not_replace_what_was_placed(lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    ran = ckptool("place", lora, "--ui", "a1111", "--root", root, "--report", lora)
    assert ran.code == 2
