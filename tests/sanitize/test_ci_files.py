"""What users of CI services take from the repository does what it says: steps run as a shell would run them."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import threading
import urllib.request
from dataclasses import dataclass
from http.server import HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import yaml

from ckptool.sanitize.policy import KEYS
from ckptool.sanitize.policy_file import read_policy
from tests.convert.converting import ckptool
from tests.core.sarif import check, uri_of
from tests.sanitize.sanitizing import embedding, evil, files_in, lora, trained, write

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = {step["id"]: step for step in ACTION["runs"]["steps"] if "id" in step}
SHELL = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]  # how a runner calls it
BIN = Path(sysconfig.get_path("scripts"))


@dataclass(frozen=True, slots=True)
class Step:
    code: int
    outputs: dict[str, str]
    err: str


def run(name: str, folder: Path, values: dict[str, str]) -> Step:
    """One step of the action, with the variables that its expressions give it."""
    (folder / "temp/ckptool/bin").mkdir(parents=True, exist_ok=True)
    program = folder / "temp/ckptool/bin/ckptool"
    if not program.is_symlink():
        program.symlink_to(BIN / "ckptool")
    (folder / "output").write_text("")
    step = STEPS[name]
    variables = {key: evaluated(text, values) for key, text in step["env"].items()}
    runner = {"RUNNER_TEMP": folder / "temp", "GITHUB_OUTPUT": folder / "output", "GITHUB_STEP_SUMMARY": folder / "sum"}
    environment = {"PATH": os.environ["PATH"]} | {key: str(path) for key, path in runner.items()} | variables
    done = subprocess.run([*SHELL, step["run"]], cwd=folder, env=environment, capture_output=True, text=True)
    lines = (folder / "output").read_text().splitlines()
    return Step(done.returncode, dict(line.split("=", 1) for line in lines), done.stderr)


def evaluated(text: str, values: dict[str, str]) -> str:
    """`${{ inputs.out }}` with a value given, or the input's default."""
    defaults = {f"inputs.{name}": str(item.get("default", "")) for name, item in ACTION["inputs"].items()}
    return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda match: (defaults | values)[match[1]], text)


def test_no_expression_stands_inside_a_script() -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
        assert step.get("shell", "bash") == "bash"


@pytest.mark.parametrize("name", STEPS)
def test_every_step_is_a_script(name: str) -> None:
    assert subprocess.run(["bash", "-n", "-c", STEPS[name]["run"]], check=False).returncode == 0


def test_every_input_is_used_and_every_output_is_there() -> None:
    text = json.dumps(ACTION["runs"])
    assert [name for name in ACTION["inputs"] if f"inputs.{name}" not in text] == []
    for output in ACTION["outputs"].values():
        name = re.fullmatch(r"\$\{\{ steps\.sanitize\.outputs\.([\w-]+) \}\}", output["value"])
        assert name
        assert f"{name[1]}=" in STEPS["sanitize"]["run"]


def test_the_action_sanitizes_and_judges(tmp_path: Path) -> None:
    write(tmp_path, {"models/a.pt": embedding(), "models/b; touch pwned;.pt": evil(), "more/l.pt": lora()})
    paths = {"inputs.paths": "models\n\nmore/*.pt\n", "inputs.out": "clean dir"}
    done = run("sanitize", tmp_path, paths)
    assert done.code == 0, done.err
    assert done.outputs["exit-code"] == "1"
    assert Path(done.outputs["report"]).read_text().startswith("<!doctype html>")
    assert {uri_of(result) for result in check(Path(done.outputs["sarif"]).read_bytes())} == {
        "models/b%3B%20touch%20pwned%3B.pt"
    }
    assert "1 disarmed" in (tmp_path / "sum").read_text()
    assert len(files_in(tmp_path / "clean dir")) == 7
    assert not list(tmp_path.rglob("pwned"))
    code = {"steps.sanitize.outputs.exit-code": "1"}
    assert run("judge", tmp_path, code).code == 0
    assert run("judge", tmp_path, code | {"inputs.fail-on": "finding"}).code == 1
    assert run("judge", tmp_path, {"steps.sanitize.outputs.exit-code": "3"}).code == 3


def test_the_action_signs_with_a_key_that_it_leaves_nowhere(tmp_path: Path) -> None:
    make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    make += ["-aes256", "-pass", "pass:a phrase"]
    key = subprocess.run(make, capture_output=True, text=True, check=True).stdout
    public = ["openssl", "pkey", "-pubout", "-passin", "pass:a phrase", "-out", tmp_path / "public.pem"]
    subprocess.run(public, input=key, text=True, check=True)
    write(tmp_path, {"models/a.pt": embedding()})
    inputs = {"inputs.paths": "models", "inputs.sign-key": key.strip(), "inputs.sign-password": "a phrase"}
    done = run("sanitize", tmp_path, inputs)
    assert done.code == 0, done.err
    assert ckptool("receipt", "verify", tmp_path / "sanitized", "--key", tmp_path / "public.pem").code == 0
    assert all("PRIVATE" not in path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    done = run("sanitize", tmp_path, inputs | {"inputs.sign-password": "another"})
    assert (done.code, "PRIVATE" in done.err) == (2, False)
    assert not list((tmp_path / "temp").glob("key.*"))


@pytest.mark.parametrize(
    "values", [{"inputs.fail-on": "never"}, {"inputs.policy": "none.toml"}, {"inputs.shard": "9/2"}]
)
def test_what_means_nothing_fails_the_step(values: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, {"models/a.pt": embedding()})
    assert run("sanitize", tmp_path, {"inputs.paths": "models"} | values).code == 2


def hook(name: str, *files: Path) -> int:
    """A hook as pre-commit calls it."""
    hooks = {item["id"]: item for item in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    words = hooks[name]["entry"].split()
    programs = {"ckptool": [str(BIN / "ckptool")], "python": [sys.executable]}
    command = [*programs[words[0]], *words[1:], *map(str, files)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_the_hooks_fail_for_what_they_are_named_after(tmp_path: Path) -> None:
    up = write(tmp_path, {"evil.pt": evil(), "a.pt": embedding(), "w.md": b"Import this.", "p.txt": trained()})
    assert hook("ckptool-scan", up / "a.pt") == 0
    assert hook("ckptool-scan", up / "evil.pt") == 1
    assert hook("ckptool-no-pickles", up / "w.md", ROOT / "README.md", ROOT / "setup.cfg") == 0
    assert hook("ckptool-no-pickles", up / "w.md", up / "p.txt") == 1


def test_the_policy_in_the_documentation_is_one(tmp_path: Path) -> None:
    text = (ROOT / "docs/ci.md").read_text()
    policy = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0]
    (tmp_path / "policy.toml").write_text(policy)
    found = read_policy(tmp_path / "policy.toml", {})
    assert found.dangerous == "quarantine"
    assert all(getattr(found, key) not in (None, ()) for key in KEYS)


def test_workflows_in_the_documentation_are_yaml_with_inputs_that_exist() -> None:
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/ci.md").read_text(), re.DOTALL):
        found: Any = yaml.safe_load(block)
        for job in found.get("jobs", {}).values():
            steps = [step for step in job["steps"] if "ckptool@" in step.get("uses", "")]
            assert set(steps[0]["with"]) <= set(ACTION["inputs"])


def test_the_webhook_takes_pushes_with_the_secret_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("hub_webhook", ROOT / "examples/hub_webhook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("WEBHOOK_SECRET", "word")
    server = HTTPServer(("127.0.0.1", 0), module.Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    event = {"event": {"action": "update", "scope": "repo.content"}, "repo": {"type": "model", "name": "me/it"}}
    event["repo"]["headSha"] = "0" * 40
    try:
        assert post(server, event, "word") == 202
        assert post(server, event, "guess") == 403
        assert post(server, event | {"repo": event["repo"] | {"name": "../../it"}}, "word") == 200
    finally:
        server.shutdown()
        server.server_close()
    assert module.pushes.qsize() == 1


def post(server: HTTPServer, event: dict[str, Any], secret: str) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.server_port}/", json.dumps(event).encode(), {"X-Webhook-Secret": secret}
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
