"""Receipts and sums are signed with the key of who ran it, and a signature holds for one name and its bytes alone."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.convert.converting import ckptool
from tests.sanitize.sanitizing import (
    COMMAND,
    children,
    embedding,
    evil,
    files_in,
    lora,
    sanitize,
    trained,
    write,
)

PAPER = "a.safetensors.receipt.json"
SIG = PAPER + ".sig"
MODEL_SIGNING = Path(sysconfig.get_path("scripts"), "model_signing")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys in a folder: mine, another's, and those that cannot sign."""
    folder = tmp_path_factory.mktemp("keys")
    save(ec.generate_private_key(ec.SECP256R1()), folder, "mine")
    save(ec.generate_private_key(ec.SECP384R1()), folder, "other")
    save(ec.generate_private_key(ec.SECP256R1()), folder, "secret", b"pass phrase")
    save(ec.generate_private_key(ec.SECP256K1()), folder, "curve")
    save(rsa.generate_private_key(65537, 2048), folder, "rsa")
    save(ed25519.Ed25519PrivateKey.generate(), folder, "ed25519")
    (folder / "broken.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    (folder / "empty.pem").touch()
    (folder / "large.pem").touch()
    os.truncate(folder / "large.pem", 1 << 28)
    os.mkfifo(folder / "pipe.pem")
    return folder


def save(key: Any, folder: Path, name: str, password: bytes | None = None) -> None:
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    (folder / f"{name}.pem").touch(0o600)
    (folder / f"{name}.pem").write_bytes(private)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)


@pytest.fixture(scope="module")
def made(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three uploads and their outputs, signed."""
    folder = tmp_path_factory.mktemp("made")
    write(folder / "up", {"a.pt": embedding(), "sub/b.pt": embedding(), "evil.pt": evil()})
    assert run(folder, keys).ran.code == 1
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of them with the times of the sources, which make the next run skip."""
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def run(folder: Path, keys: Path, *options: object, key: str = "mine") -> Any:
    return sanitize(folder / "up", folder / "out", "--dangerous", "quarantine", "--sign", keys / f"{key}.pem", *options)


def unsigned(folder: Path, *options: object) -> Any:
    return sanitize(folder / "up", folder / "out", "--dangerous", "quarantine", *options)


def problems(folder: Path, keys: Path, key: str = "mine") -> dict[str, str]:
    """What `receipt verify --key` tells, by the names of the files."""
    out = folder / "out"
    ran = ckptool("receipt", "verify", out, "--key", keys / f"{key}.pub", "--json")
    data = json.loads(ran.out)
    assert data["signatures"]["checked"]
    found = {os.path.relpath(item["path"], out): item["problem"] for item in data["problems"]}
    assert ran.code == (1 if found else 0)
    return found


def by_model_signing(folder: Path, keys: Path, name: str, key: str = "mine") -> int:
    path = folder / "out" / name
    command = [MODEL_SIGNING, "verify", "key", path, "--signature", f"{path}.sig", "--public_key", keys / f"{key}.pub"]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_every_receipt_and_the_sums_are_signed(folder: Path, keys: Path) -> None:
    papers = {name for name in files_in(folder / "out") if name.endswith(".receipt.json")}
    assert papers == {PAPER, "sub/b.safetensors.receipt.json", "quarantine/evil.safetensors.receipt.json"}
    signatures = {name for name in files_in(folder / "out") if name.endswith(".sig")}
    assert signatures == {f"{name}.sig" for name in papers | {"SHA256SUMS"}}
    assert problems(folder, keys) == {}


def test_a_report_says_where_the_signature_is(folder: Path, keys: Path) -> None:
    reports = run(folder, keys, "--force").reports
    assert reports["a.pt"]["signature"] == str(folder / "out" / SIG)
    assert reports["evil.pt"]["signature"] == str(folder / "out/quarantine/evil.safetensors.receipt.json.sig")


@pytest.mark.parametrize("name", [PAPER, "SHA256SUMS"])
def test_model_signing_verifies_what_was_signed(name: str, folder: Path, keys: Path) -> None:
    assert by_model_signing(folder, keys, name) == 0
    assert by_model_signing(folder, keys, name, "other") == 1
    with (folder / "out" / name).open("ab") as file:
        file.write(b"\n")
    assert by_model_signing(folder, keys, name) == 1


def test_what_model_signing_signs_elsewhere_is_taken(folder: Path, keys: Path) -> None:
    for path in (folder / "out").rglob("*.sig"):
        path.unlink()
        file = path.with_suffix("")
        command = [MODEL_SIGNING, "sign", "key", file, "--signature", path, "--private_key", keys / "mine.pem"]
        subprocess.run(command, capture_output=True, check=True)
    assert problems(folder, keys) == {}
    assert set(run(folder, keys).actions.values()) == {"skipped"}


@pytest.mark.parametrize("key", ["other", "secret"])
def test_other_curves_and_keys_with_a_passphrase_sign(
    key: str, folder: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKPTOOL_SIGN_PASSWORD", "pass phrase")
    assert run(folder, keys, key=key).actions == {"a.pt": "released", "sub/b.pt": "released", "evil.pt": "quarantined"}
    assert problems(folder, keys, key) == {}
    assert by_model_signing(folder, keys, PAPER, key) == 0
    assert all(b"pass phrase" not in path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file())


def test_what_is_signed_is_skipped_and_stays_as_it_is(folder: Path, keys: Path) -> None:
    before = {name: (folder / "out" / name).stat().st_ino for name in files_in(folder / "out") if name != "SHA256SUMS"}
    before.pop("SHA256SUMS.sig")
    assert set(run(folder, keys).actions.values()) == {"skipped"}
    assert {name: (folder / "out" / name).stat().st_ino for name in before} == before
    assert problems(folder, keys) == {}


def test_a_receipt_without_a_signature_is_made_again_and_not_signed_as_it_lies_there(folder: Path, keys: Path) -> None:
    found = json.loads((folder / "out" / PAPER).read_bytes())
    (folder / "out" / PAPER).write_text(json.dumps(found | {"verdict": "clean, believe me"}))
    assert run(folder, keys).actions == {"a.pt": "released", "sub/b.pt": "skipped", "evil.pt": "skipped"}
    assert json.loads((folder / "out" / PAPER).read_bytes()) == found
    (folder / "out" / SIG).unlink()
    assert run(folder, keys).actions["a.pt"] == "released"
    assert problems(folder, keys) == {}


def test_a_folder_that_nobody_signed_is_signed_by_a_run_that_does(folder: Path, keys: Path) -> None:
    for path in (folder / "out").rglob("*.sig"):
        path.unlink()
    assert set(unsigned(folder).actions.values()) == {"skipped"}
    assert len(problems(folder, keys)) == 4
    run(folder, keys)
    assert problems(folder, keys) == {}


def test_a_run_without_a_key_leaves_no_signature_of_what_it_changed(folder: Path, keys: Path) -> None:
    assert set(unsigned(folder).actions.values()) == {"skipped"}
    assert problems(folder, keys) == {}
    (folder / "up/a.pt").write_bytes(lora())
    (folder / "up/evil.pt").write_bytes(b"no model")
    unsigned(folder)
    assert problems(folder, keys) == {PAPER: "has no signature", "SHA256SUMS": "has no signature"}


def test_sums_are_not_signed_while_a_receipt_is_not(folder: Path, keys: Path) -> None:
    write(folder / "more", {"c.pt": embedding()})
    sanitize(folder / "more", folder / "out")
    ran = run(folder, keys).ran
    assert "SHA256SUMS is not signed: 1 receipt in the folder" in ran.err
    assert problems(folder, keys) == {
        "SHA256SUMS": "has no signature",
        "c.safetensors.receipt.json": "has no signature",
    }


def test_a_run_that_is_killed_is_mended_by_the_next(keys: Path, tmp_path: Path) -> None:
    write(tmp_path / "up", {f"{i}.pt": embedding() for i in range(40)})
    command = [*COMMAND, tmp_path / "up", "--out", tmp_path / "out", "--sign", keys / "mine.pem", "-q"]
    child = subprocess.Popen(command)
    while child.poll() is None and len(list(tmp_path.glob("out/*.sig"))) < 3:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    actions = list(run(tmp_path, keys).actions.values())
    assert actions.count("released") + actions.count("skipped") == 40
    assert problems(tmp_path, keys) == {}
    assert len(files_in(tmp_path / "out")) == 40 * 3 + 2


def test_names_of_any_bytes_and_any_length_are_signed(keys: Path, tmp_path: Path) -> None:
    write(tmp_path / "up", {name: embedding() for name in ("a" * 250 + ".pt", "é\n.pt", os.fsdecode(b"\xff\xfe.pt"))})
    run(tmp_path, keys)
    assert len(list((tmp_path / "out").glob("*.sig"))) == 4
    assert problems(tmp_path, keys) == {}


def again(path: Path, change: Any) -> None:
    """Changes a bundle and leaves its signature as it was."""
    found = json.loads(path.read_bytes())
    change(found)
    path.write_text(json.dumps(found))


def signed_by_me(keys: Path, path: Path, statement: object) -> None:
    """Puts another statement into a bundle, with a good signature."""
    key: Any = serialization.load_pem_private_key((keys / "mine.pem").read_bytes(), None)
    payload = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
    text = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    found = json.loads(path.read_bytes())
    envelope = found["dsseEnvelope"]
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(key.sign(text, ec.ECDSA(hashes.SHA256()))).decode()
    path.write_text(json.dumps(found))


def statement_of(path: Path) -> Any:
    return json.loads(base64.b64decode(json.loads(path.read_bytes())["dsseEnvelope"]["payload"]))


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("missing", "has no signature"),
        ("another file's", "is a signature of another file: b.safetensors.receipt.json"),
        ("of the sums", "is a signature of another file: SHA256SUMS"),
        ("receipt changed", "is a signature of other bytes than the file has now"),
        ("bit", "is not valid"),
        ("payload", "is not valid"),
        ("another key's hint", "is by another key"),
        ("broken", "is no signature"),
        ("deep", "is no signature"),
        ("not text", "is no signature"),
        ("empty", "is no signature"),
        ("list", "is no signature"),
        ("no hint", "is no signature"),
        ("two signatures", "is no signature"),
        ("huge", "cannot be read: it has more than 1,048,576 bytes"),
        ("pipe", "cannot be read: it is no regular file"),
        ("link", "cannot be read: it is a link"),
    ],
)
def test_what_is_wrong_with_a_signature_is_told(what: str, told: str, folder: Path, keys: Path) -> None:
    out = folder / "out"
    path = out / SIG
    match what:
        case "missing":
            path.unlink()
        case "another file's":
            path.write_bytes((out / "sub/b.safetensors.receipt.json.sig").read_bytes())
        case "of the sums":
            path.write_bytes((out / "SHA256SUMS.sig").read_bytes())
        case "receipt changed":
            again(out / PAPER, lambda found: found.update(verdict="clean"))
        case "bit":
            again(path, lambda found: found["dsseEnvelope"]["signatures"][0].update(sig="MEUCIQD" + "A" * 89))
        case "payload":
            mine = base64.b64encode(json.dumps(statement_of(path)).encode()).decode()
            again(path, lambda found: found["dsseEnvelope"].update(payload=mine))
        case "another key's hint":
            again(path, lambda found: found["verificationMaterial"]["publicKey"].update(hint="0" * 64))
        case "broken":
            os.truncate(path, 300)
        case "deep":
            path.write_bytes(b"[" * 200_000)
        case "not text":
            path.write_bytes(b"\xff\xfe\x00")
        case "empty":
            path.write_bytes(b"")
        case "list":
            path.write_bytes(b"[]")
        case "no hint":
            again(path, lambda found: found["verificationMaterial"].update(publicKey={}))
        case "two signatures":
            again(path, lambda found: found["dsseEnvelope"]["signatures"].append({"sig": "AAAA"}))
        case "huge":
            os.truncate(path, 1 << 30)
        case "pipe":
            path.unlink()
            os.mkfifo(path)
        case "link":
            path.rename(out / "elsewhere")
            path.symlink_to("elsewhere")
    found = problems(folder, keys)
    assert list(found) == [PAPER if what == "missing" else SIG]
    assert next(iter(found.values())).startswith(told)


@pytest.mark.parametrize(
    "what", ["nothing", "ignored", "two files", "other method", "other hash", "old form", "subjects", "null", "text"]
)
def test_a_good_signature_of_a_statement_that_covers_anything_else_is_none(what: str, folder: Path, keys: Path) -> None:
    path = folder / "out" / SIG
    said = statement_of(path)
    signed_by_me(keys, path, said)
    assert problems(folder, keys) == {}
    predicate = said["predicate"]
    match what:
        case "nothing" | "ignored":
            predicate["resources"] = []
            predicate["serialization"]["ignore_paths"] = ["."] if what == "ignored" else []
            empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
            said["subject"][0]["digest"]["sha256"] = empty
        case "two files":
            predicate["resources"].append({"name": "x", "algorithm": "sha256", "digest": "0" * 64})
        case "other method":
            predicate["serialization"]["method"] = "shards"
        case "other hash":
            predicate["resources"][0]["algorithm"] = "blake2b"
        case "old form":
            said["predicateType"] = "https://model_signing/Digests/v0.1"
        case "subjects":
            said["subject"] *= 2
        case "null":
            said = None
        case "text":
            said = b"[" * 100_000
    signed_by_me(keys, path, said)
    assert set(problems(folder, keys)) == {SIG}


def test_a_bundle_that_says_two_things_is_read_one_way(folder: Path, keys: Path) -> None:
    """Under the names that parsers take for the same: what is verified is what was compared."""
    path = folder / "out" / SIG
    good = json.loads(path.read_bytes())["dsseEnvelope"]
    (folder / "out" / PAPER).write_bytes((folder / "out" / PAPER).read_bytes() + b"\n")
    said = statement_of(path)
    import hashlib

    digest = hashlib.sha256((folder / "out" / PAPER).read_bytes()).hexdigest()
    said["predicate"]["resources"][0]["digest"] = digest
    said["subject"][0]["digest"]["sha256"] = hashlib.sha256(bytes.fromhex(digest)).hexdigest()
    payload = base64.b64encode(json.dumps(said).encode()).decode()
    again(path, lambda found: found.update(dsseEnvelope=good | {"payload": payload}, dsse_envelope=good))
    assert problems(folder, keys)[SIG].startswith("is not valid")


def test_signatures_by_another_key_are_told(folder: Path, keys: Path) -> None:
    assert set(problems(folder, keys, "other").values()) == {"is by another key"}


@pytest.mark.parametrize("with_sums", [False, True])
def test_a_file_that_was_taken_away_with_its_receipt_shows(with_sums: bool, folder: Path, keys: Path) -> None:
    for name in ("a.safetensors", PAPER, SIG):
        (folder / "out" / name).unlink()
    sums = folder / "out/SHA256SUMS"
    if with_sums:
        sums.write_text("".join(line for line in sums.read_text().splitlines(True) if " a.saf" not in line))
        assert problems(folder, keys) == {"SHA256SUMS.sig": "is a signature of other bytes than the file has now"}
    else:
        assert set(problems(folder, keys)) == {"SHA256SUMS"}
    (sums.with_name("SHA256SUMS.sig")).unlink()
    assert "SHA256SUMS" in problems(folder, keys)


def test_a_signature_without_its_receipt_is_told(folder: Path, keys: Path) -> None:
    (folder / "out" / PAPER).unlink()
    assert problems(folder, keys)[SIG] == "is the signature of a file that is not there"


def test_without_a_key_signatures_are_counted_and_not_looked_at(folder: Path) -> None:
    (folder / "out" / SIG).write_bytes(b"nothing of the kind")
    ran = ckptool("receipt", "verify", folder / "out")
    assert (ran.code, ran.err) == (0, "")
    assert "4 signatures not checked: --key does it" in ran.out


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("none", "the key cannot be read: No such file"),
        ("secret", "is encrypted"),
        ("curve", "is no key of the curves P-256"),
        ("rsa", "is no key of the curves P-256"),
        ("ed25519", "is no key of the curves P-256"),
        ("broken", "is no private key in PEM"),
        ("empty", "is no private key in PEM"),
        ("large", "the key cannot be read"),
        ("pipe", "the key cannot be read"),
    ],
)
def test_a_key_that_cannot_sign_is_told_before_anything_is_done(
    key: str, told: str, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CKPTOOL_SIGN_PASSWORD", raising=False)
    write(tmp_path / "up", {"a.pt": embedding()})
    ran = ckptool("sanitize", tmp_path / "up", "--out", tmp_path / "out", "--sign", keys / f"{key}.pem")
    assert ran.code == 2
    assert told in ran.err
    assert not (tmp_path / "out").exists()


def test_no_child_gets_the_passphrase(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTOOL_SIGN_PASSWORD", "pass phrase")
    write(tmp_path / "up", {f"{i}.pt": trained() for i in range(8)})
    command = [*COMMAND, tmp_path / "up", "--out", tmp_path / "out", "--sign", keys / "secret.pem", "-q"]
    run = subprocess.Popen(command)
    seen: dict[int, bool] = {}  # as each was last seen: before exec it has our own environment
    while run.poll() is None:
        for child in family(run.pid):
            try:
                seen[child] = b"CKPTOOL_SIGN_PASSWORD" in Path(f"/proc/{child}/environ").read_bytes()
            except OSError:
                continue  # it ended
        time.sleep(0.005)
    assert run.returncode == 0
    assert set(seen.values()) == {False}


def family(pid: int) -> list[int]:
    """The processes that one has started, and those that these have."""
    try:
        own = list(children(pid))
    except OSError:
        return []
    return own + [other for child in own for other in family(child)]


def test_a_wrong_passphrase_is_told_and_not_repeated(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKPTOOL_SIGN_PASSWORD", "wrong one")
    write(tmp_path / "up", {"a.pt": embedding()})
    ran = ckptool("sanitize", tmp_path / "up", "--out", tmp_path / "out", "--sign", keys / "secret.pem")
    assert ran.code == 2
    assert "does not open with the passphrase in CKPTOOL_SIGN_PASSWORD" in ran.err
    assert "wrong one" not in ran.err


def test_a_key_that_others_can_read_is_told_and_signs(folder: Path, keys: Path) -> None:
    assert "other users can read this key" not in run(folder, keys).ran.err
    shutil.copy(keys / "mine.pem", folder / "open.pem")
    (folder / "open.pem").chmod(0o644)
    ran = sanitize(folder / "up", folder / "out", "--dangerous", "quarantine", "--sign", folder / "open.pem").ran
    assert f"{folder}/open.pem: other users can read this key" in ran.err
    assert problems(folder, keys) == {}


@pytest.mark.parametrize("key", ["mine.pem", "rsa.pub", "curve.pub", "none.pub", "empty.pem", "pipe.pem"])
def test_what_is_no_public_key_is_told(key: str, folder: Path, keys: Path) -> None:
    ran = ckptool("receipt", "verify", folder / "out", "--key", keys / key)
    assert ran.code == 2
    assert key in ran.err


def test_without_the_extra_it_says_what_to_install(
    folder: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for ran in (
        ckptool("sanitize", folder / "up", "--out", tmp_path / "new", "--sign", keys / "mine.pem"),
        ckptool("receipt", "verify", folder / "out", "--key", keys / "mine.pub"),
    ):
        assert ran.code == 2
        assert "pip install 'ckptool[sign]'" in ran.err
    assert not (tmp_path / "new").exists()
    assert ckptool("receipt", "verify", folder / "out").code == 0


def test_nothing_of_the_libraries_is_imported_without_a_key(folder: Path) -> None:
    code = (
        "import sys; from ckptool.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([name for name in ('model_signing', 'cryptography', 'sigstore') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "receipt", "verify", "-q", folder / "out"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
