"""What comes out of sanitize for each kind of upload, under each policy."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from ckptool.errors import EXIT_REFUSED
from ckptool.sanitize.local import Local
from ckptool.sanitize.policy import Policy
from ckptool.sanitize.run import Run
from fixtures.models import hypernetwork
from tests.convert.converting import ckptool, header_of
from tests.sanitize.sanitizing import (
    embedding,
    evil,
    files_in,
    large,
    lora,
    names_of,
    odd,
    packed,
    sanitize,
    trained,
    write,
)

UPLOADS = {
    "clean.pt": embedding(),
    "deep/folder/lora.pt": lora(),
    "evil.pt": evil(),
    "training.ckpt": trained(),
    "cut.ckpt": trained()[:60_000],
    "README.md": b"# words",
    "config.json": b"{}",
}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("up"), UPLOADS)


def test_every_upload_ends_as_what_it_is(up: Path, tmp_path: Path) -> None:
    done = sanitize(up, tmp_path / "out")
    assert done.actions == {
        "clean.pt": "released",
        "deep/folder/lora.pt": "released",
        "evil.pt": "released",
        "training.ckpt": "released",
        "cut.ckpt": "refused",
    }
    assert done.ran.code == 3
    names = ("clean", "deep/folder/lora", "evil", "training")
    receipts = {f"{name}.safetensors.receipt.json" for name in names}
    assert files_in(tmp_path / "out") == receipts | {f"{name}.safetensors" for name in names} | {"SHA256SUMS"}
    assert "2 files without a model passed over" in done.ran.err


def test_a_disarmed_file_tells_what_it_would_have_called(up: Path, tmp_path: Path) -> None:
    report = sanitize(up / "evil.pt", tmp_path / "out").reports["evil.pt"]
    assert report["verdict"] == "dangerous"
    assert ("posix.system", "disarmed") in {(f["reference"], f["action"]) for f in report["findings"]}
    assert report["kind"] == "textual-inversion"
    assert report["parity"] is True


def test_the_average_and_the_training_state_are_left_out(up: Path, tmp_path: Path) -> None:
    done = sanitize(up / "training.ckpt", tmp_path / "out", "--dtype", "fp16")
    assert done.ran.code == 0
    data = (tmp_path / "out/training.safetensors").read_bytes()
    assert not [name for name in header_of(data) if name.startswith("model_ema.")]
    assert header_of(data)["model.diffusion_model.out.2.weight"]["dtype"] == "F16"
    assert done.reports["training.ckpt"]["removed"]["EMA"]["tensors"] == 688
    kept = sanitize(up / "training.ckpt", tmp_path / "kept", "--ema", "keep")
    assert kept.ran.code == 0
    assert any(name.startswith("model_ema.") for name in names_of(tmp_path / "kept/training.safetensors"))


@pytest.mark.parametrize(
    ("options", "action", "code"),
    [
        ((), "released", 1),
        (("--dangerous", "quarantine"), "quarantined", 1),
        (("--dangerous", "refuse"), "refused", 3),
        (("--unknown", "refuse"), "released", 1),
    ],
)
def test_what_is_dangerous_is_treated_as_the_policy_says(
    options: tuple[str, ...], action: str, code: int, up: Path, tmp_path: Path
) -> None:
    done = sanitize(up / "evil.pt", tmp_path / "out", *options)
    assert (done.actions["evil.pt"], done.ran.code) == (action, code)
    where = {"released": {"evil.safetensors"}, "quarantined": {"quarantine/evil.safetensors"}, "refused": set()}
    assert {name for name in files_in(tmp_path / "out") if name.endswith(".safetensors")} == where[action]


def test_a_stricter_policy_takes_back_what_an_earlier_one_released(up: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sanitize(up / "evil.pt", out)
    sanitize(up / "evil.pt", out, "--dangerous", "quarantine")
    assert files_in(out) == {
        "quarantine/evil.safetensors", "quarantine/evil.safetensors.receipt.json", "SHA256SUMS",
    }  # fmt: skip
    sanitize(up / "evil.pt", out, "--dangerous", "refuse")
    assert files_in(out) == {"SHA256SUMS"}
    assert (out / "SHA256SUMS").read_bytes() == b""


def test_a_name_that_the_policy_knows_is_harmless(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"odd.pt": odd()})
    assert sanitize(up, tmp_path / "one").ran.code == 1
    known = sanitize(up, tmp_path / "two", "--harmless", "my.trainer.State")
    assert (known.ran.code, known.reports["odd.pt"]["verdict"]) == (0, "harmless")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--kind", "lora"), "kind textual-inversion"),
        (("--base", "sdxl"), "base sd1"),
        (("--max-size", "1kB"), "allows 1 kB"),
    ],
)
def test_what_the_policy_does_not_allow_is_refused(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"a.pt": embedding()})
    done = sanitize(up, tmp_path / "out", *options)
    assert (done.actions["a.pt"], done.ran.code) == ("refused", 3)
    assert words in done.reports["a.pt"]["error"]["message"]
    assert files_in(tmp_path / "out") == {"SHA256SUMS"}


def test_a_hypernetwork_is_told_to_be_loaded_from_pt_alone_and_how_to_get_one(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"h.pt": packed(hypernetwork()), "a.pt": embedding()})
    done = sanitize(up, tmp_path / "out", "--report", tmp_path / "r.html", "-v")
    assert done.reports["h.pt"]["kind"] == "hypernetwork"
    (note,) = done.reports["h.pt"]["notes"]
    assert done.reports["a.pt"]["notes"] == []
    again = sanitize(up, tmp_path / "out").reports["h.pt"]
    assert (again["action"], again["notes"]) == ("skipped", [note])
    assert note in done.ran.err
    assert note.partition("`")[0] in (tmp_path / "r.html").read_text()
    words = note.split("`")[1].replace("SRC", str(up / "h.pt")).replace("NAME.pt", str(tmp_path / "clean.pt")).split()
    assert ckptool(*words[1:]).code == 0
    assert torch.load(tmp_path / "clean.pt", weights_only=True).keys() == hypernetwork().keys()


def test_sums_are_those_of_the_outputs_in_the_order_of_their_names(up: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sanitize(up, out)
    lines = (out / "SHA256SUMS").read_text().splitlines()
    names = [line[66:] for line in lines]
    assert names == sorted(names)
    assert len(names) == 4
    for line in lines:
        assert hashlib.sha256((out / line[66:]).read_bytes()).hexdigest() == line[:64]


def test_sources_of_one_name_keep_their_endings(tmp_path: Path) -> None:
    plain = write(tmp_path / "one", {"a.pt": embedding()})
    sanitize(plain, tmp_path / "one/out")
    safe = (tmp_path / "one/out/a.safetensors").read_bytes()
    up = write(tmp_path / "up", {"a.pt": embedding(), "a.ckpt": evil(), "a.safetensors": safe, "b.pt": embedding()})
    write(up, {"b.png": b"\x89PNG", "b.yaml": b"model: {}\n"})
    done = sanitize(up, tmp_path / "out")
    assert {name: Path(report["output"]["path"]).name for name, report in done.reports.items()} == {
        "a.pt": "a.pt.safetensors", "a.ckpt": "a.ckpt.safetensors", "a.safetensors": "a.safetensors",
        "b.pt": "b.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["a" * 250, "é" * 124 + "aa", "\udcff" * 250], ids=["ascii", "two bytes", "no text"])
def test_very_long_names_are_cut_and_stay_apart(name: str, tmp_path: Path) -> None:
    up = write(tmp_path / "up", {f"{name}.pt": embedding(), f"{name[:-1]}b.pt": odd()})
    done = sanitize(up, tmp_path / "out")
    assert set(done.actions.values()) == {"released"}
    outputs = {name for name in files_in(tmp_path / "out") if name.endswith(".safetensors")}
    assert len(outputs) == 2
    assert max(len(os.fsencode(f"{name}.receipt.json")) for name in outputs) <= 255


def test_two_sources_of_one_relative_name_are_a_usage_error(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", {"a.pt": embedding()}), write(tmp_path / "two", {"a.pt": evil()})
    done = sanitize([one, two], tmp_path / "out")
    assert (done.ran.code, done.reports) == (2, {})


def test_files_of_one_name_that_are_named_keep_their_folders(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"x/a.pt": embedding(), "y/a.pt": evil()})
    done = sanitize([up / "x/a.pt", up / "y/a.pt"], tmp_path / "out")
    assert done.ran.code == 1
    assert {"x/a.safetensors", "y/a.safetensors"} <= files_in(tmp_path / "out")


def test_a_glob_is_expanded(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"x/a.pt": embedding(), "x/b.bin": embedding(), "c.pt": embedding()})
    done = sanitize([up / "**/*.pt"], tmp_path / "out")
    assert {Path(name).name for name in done.reports} == {"a.pt", "c.pt"}


def test_a_folder_named_like_the_quarantine_does_not_get_there(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"quarantine/a.pt": embedding(), "a.pt": evil()})
    sanitize(up, tmp_path / "out", "--dangerous", "quarantine")
    outputs = {name for name in files_in(tmp_path / "out") if name.endswith(".safetensors")}
    assert outputs == {"quarantine/a.safetensors", "quarantine_/a.safetensors"}


def test_outputs_below_the_source_are_not_sanitized_again(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"a.pt": embedding()})
    for _ in range(2):
        done = sanitize(up, up / "out")
        assert set(done.reports) == {"a.pt"}


@pytest.mark.parametrize("inside", ["", "a.pt"])
def test_the_output_folder_holds_no_source(inside: str, tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"a.pt": embedding()})
    assert sanitize(up / inside, up).ran.code == 2
    assert files_in(up) == {"a.pt"}


def test_a_folder_with_files_of_somebody_else_is_not_written_to(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"a.pt": embedding()})
    out = write(tmp_path / "out", {"a.safetensors": b"precious"})
    assert sanitize(up, out).ran.code == 2
    assert (out / "a.safetensors").read_bytes() == b"precious"


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    secret = write(tmp_path / "other", {"secret.pt": embedding()})
    up = write(tmp_path / "up", {"a.pt": embedding()})
    (up / "b.pt").symlink_to(secret / "secret.pt")
    (up / "c.pt").symlink_to("a.pt")
    assert sanitize(up, tmp_path / "out").actions == {"a.pt": "released", "b.pt": "refused", "c.pt": "released"}


def test_a_sharded_model_is_one(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"m.pt": large()})
    assert ckptool("convert", up / "m.pt", up / "s.safetensors", "--max-shard-size", "1GB").code == 0
    (up / "s.safetensors").rename(up / "part-1.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names_of(up / "part-1.safetensors"), "part-1.safetensors")}
    (up / "model.safetensors.index.json").write_text(json.dumps(index))
    done = sanitize(up, tmp_path / "out")
    assert set(done.reports) == {"m.pt", "model.safetensors.index.json"}
    assert names_of(tmp_path / "out/model.safetensors") == names_of(up / "part-1.safetensors")


@pytest.mark.parametrize(
    "weights", ['{"w": "../up/m.pt"}', '{"w": "none.safetensors"}', "[]", "{}", '{"w": "model.safetensors.index.json"}']
)
def test_an_index_that_cannot_be_followed_is_refused(weights: str, tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"m.pt": embedding(), "other.index.json": b"{}"})
    (up / "model.safetensors.index.json").write_text(f'{{"weight_map": {weights}}}')
    done = sanitize(up, tmp_path / "out")
    assert done.actions == {"m.pt": "released", "model.safetensors.index.json": "refused"}


def test_shards_of_a_run_share_the_files_out(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {f"{i}.pt": embedding() for i in range(12)})
    parts = [sanitize(up, tmp_path / "out", "--shard", f"{i}/3") for i in (1, 2, 3)]
    names = [name for part in parts for name in part.reports]
    assert sorted(names) == sorted(f"{i}.pt" for i in range(12))
    assert len((tmp_path / "out/SHA256SUMS").read_text().splitlines()) == 12
    assert ckptool("receipt", "verify", tmp_path / "out").code == 0


@pytest.mark.parametrize("value", ["0/3", "4/3", "1", "a/b", "1/"])
def test_a_shard_that_cannot_be_is_a_usage_error(value: str, tmp_path: Path) -> None:
    assert sanitize(tmp_path, tmp_path / "out", "--shard", value).ran.code == 2


def test_a_folder_without_models_is_not_clean(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"README.md": b"# words"})
    assert sanitize(up, tmp_path / "out").ran.code == 2
    assert sanitize(tmp_path / "nothing", tmp_path / "out").ran.code == 2


def test_sums_that_cannot_be_written_keep_nobody_from_hearing_of_the_files(tmp_path: Path) -> None:
    up, out = write(tmp_path / "up", {"a.pt": embedding()}), tmp_path / "out"
    run = Run([up], out, Policy(), Local(1))
    run.prepare()
    (out / "SHA256SUMS").unlink()
    (out / "SHA256SUMS").mkdir()
    assert [report["action"] for report in run.reports()] == ["released"]
    assert run.problem is not None
    assert run.problem.exit_code == EXIT_REFUSED


def test_a_name_as_long_as_there_are_keeps_its_file_from_nothing(tmp_path: Path) -> None:
    """With the ending of the settings that may lie beside it, it would be longer than a name can be."""
    name = "n" * 252 + ".pt"
    done = sanitize(write(tmp_path / "up", {name: embedding()}), tmp_path / "out")
    assert done.actions == {name: "released"}
    assert sanitize(tmp_path / "up", tmp_path / "out").actions == {name: "skipped"}


def test_a_name_is_no_command_to_the_service_that_runs_this(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"::add-mask::x.pt": embedding(), "##[error]y.pt": embedding()})
    monkeypatch.chdir(tmp_path)
    ran = ckptool("sanitize", "*.pt", "--out", "out")
    assert ran.code == 0
    assert not [line for line in (ran.out + ran.err).splitlines() if line.lstrip().startswith(("::", "##["))]


def test_in_markdown_many_tensors_that_were_left_out_are_a_line(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"t.ckpt": trained()})
    sanitize(up, tmp_path / "out", "--report", tmp_path / "report.md")
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("- Dropped: ")]) < 20
    assert any("Dropped: 686, such as " in line for line in lines)
