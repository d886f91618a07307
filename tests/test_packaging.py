"""What is installed is all of it: the wheel that images and the action build holds every module, and runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.convert.converting import ckptool
from tests.sanitize.sanitizing import evil, files_in, write

ROOT = Path(__file__).parent.parent
IMAGES = ["Dockerfile", "Dockerfile.verify"]
SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg")
FOLDERS = dict(line.replace(" ", "").split("=") for line in SETUP["options"]["package_dir"].split("\n") if line)
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `docker build` sees of the repository: .dockerignore forbids everything but what it names."""
    folder = tmp_path_factory.mktemp("context")
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert rules[0] == "*"
    for name in [rule[1:] for rule in rules if rule.startswith("!")]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def installed(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of it, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-c", BUILD, folder], cwd=context, capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_every_folder_with_modules_is_a_package() -> None:
    packages = SETUP["options"]["packages"].split()
    assert set(packages) == set(FOLDERS)
    installed = {ROOT / folder for folder in FOLDERS.values()}
    for folder in installed:
        for path in folder.rglob("*.py"):
            assert path.parent in installed, f"{path} would not be installed"


def test_the_wheel_holds_every_module_and_nothing_else(context: Path, installed: Path) -> None:
    expected = {
        f"{package.replace('.', '/')}/{path.name}"
        for package, folder in FOLDERS.items()
        for path in (*(context / folder).glob("*.py"), *(context / folder).glob("py.typed"))
    }
    assert {name for name in files_in(installed) if ".dist-info/" not in name} == expected


def test_what_is_installed_runs_by_its_entry_point(installed: Path, tmp_path: Path) -> None:
    write(tmp_path, {"models/evil.pt": evil()})
    (points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "ckptool = ckptool.cli:main" in points.read_text()
    program = "import ckptool.cli as cli; print(cli.__file__); cli.main()"
    for words in (["sanitize", "models", "--out", "clean"], ["receipt", "verify", "clean"]):
        environment = os.environ | {"PYTHONPATH": str(installed)}
        command = [sys.executable, "-c", program, *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.startswith(str(installed)), done.stderr
        assert done.returncode == (1 if words[0] == "sanitize" else 0), done.stderr


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_made_of_what_is_there(name: str, context: Path) -> None:
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    stages = [words.split(" AS ")[1] for verb, words in lines if verb == "FROM" and " AS " in words]
    for source, _ in (words.split() for verb, words in lines if verb == "COPY" and "--from" not in words):
        assert (context / source).exists()
    for stage in re.findall(r"--from=(\S+)", text):
        assert stage in stages
    extras = re.findall(r"/source\[(.*?)\]", text)
    assert all(extra in SETUP["options.extras_require"] for extra in extras)
    assert bool(extras) == (name == "Dockerfile.verify")
    verbs = [verb for verb, _ in lines]
    assert verbs.index("USER") > max(number for number, verb in enumerate(verbs) if verb in ("COPY", "RUN"))
    assert dict(lines)["ENTRYPOINT"] == '["ckptool"]'


def test_what_the_documentation_gives_to_the_image_is_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs/ci.md").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^docker run .*$", text, re.MULTILINE)
    words = shlex.split(line)
    mounts = [words[at + 1].split(":")[:2] for at, word in enumerate(words) if word == "-v"]
    for here, there in mounts:
        assert here.rpartition("/")[2] == Path(there).name
        assert Path(there).parent == Path("/data"), "the folder that the image works in"
    write(tmp_path, {"models/evil.pt": evil()})
    (tmp_path / "clean").mkdir()
    monkeypatch.chdir(tmp_path)
    assert ckptool(*words[words.index("ckptool") + 1 :]).code == 1
    assert (tmp_path / "clean/evil.safetensors").is_file()
