"""A pull request on the Hub: what goes in, what its text says, that there is one, and what becomes of failures."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from ckptool.convert.remote_hub import Hub
from ckptool.sanitize.policy import Policy
from ckptool.sanitize.pull.body import MOST, code, is_marked, title_of
from ckptool.sanitize.pull.client import meaning
from tests.convert.converting import Ran, ckptool
from tests.convert.hub_server import COMMIT, TOKEN
from tests.sanitize.hub_pulls import Pull, PullServer, hub_with_pulls
from tests.sanitize.sanitizing import COMMAND, embedding, evil, large, lora, odd, trained, write

ROOT = Path(__file__).parent.parent.parent
REPO = "hf://owner/model"
EVIL = "refs|`@everyone` [x](http:e.vil) <img src=x> <!-- -->.pt"
"""A name that is markup, a mention, a link, the end of a cell and of a code span."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PullServer]:
    """A Hub on this machine, a login, and a folder of our own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with hub_with_pulls() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.chdir(tmp_path)
        server.needs_token = True
        yield server


def run(*options: object, source: str = REPO, out: str = "clean") -> Ran:
    return ckptool("sanitize", source, "--out", out, "--pr", *options)


def told(ran: Ran) -> dict[str, Any]:
    """What the last line of --json says of the pull request."""
    found: dict[str, Any] = json.loads(ran.out.splitlines()[-1])["pull_request"]
    return found


def safe(hub: PullServer) -> None:
    """The token went to the Hub alone, and nowhere in the open."""
    assert not [seen for seen in hub.seen if seen[0].startswith("localhost") and seen[2]]


# --- what goes in --------------------------------------------------------------------------------------------------


def test_the_outputs_become_one_pull_request(hub: PullServer) -> None:
    hub.files = {"a.ckpt": trained(), "sub/b.pt": embedding(), "README.md": b"read me"}
    ran = run("--json")
    assert ran.code == 0, ran.err
    (pull,) = hub.pulls
    added = {name: data for name, data in pull.files.items() if name not in hub.files}
    assert {name: Path("clean", name).read_bytes() for name in added} == added
    assert set(added) == {"a.safetensors", "sub/b.safetensors"}
    assert set(hub.files) <= set(pull.files), "nothing is deleted"
    assert hub.verified
    assert pull.parent == COMMIT
    found = told(ran)
    assert found["state"] == "opened"
    assert found["files"] == 2
    assert found["commit"] == COMMIT
    assert found["url"] == f"{hub.endpoint}/owner/model/discussions/1"
    assert found["url"] in ran.err
    safe(hub)


def test_every_line_of_json_has_a_path(hub: PullServer) -> None:
    hub.files = {"a.ckpt": embedding()}
    lines = [json.loads(line) for line in run("--json").out.splitlines()]
    assert [line["path"] for line in lines] == [f"{REPO}/a.ckpt", REPO]
    assert [line["action"] for line in lines] == ["released", "pull-request"]


def test_what_was_disarmed_goes_in_and_what_was_not_released_stays_out(hub: PullServer) -> None:
    hub.files = {"evil.pt": evil(), "odd.pt": odd(), "bad.ckpt": b"\x80\x02junk", "good.pt": embedding()}
    ran = run("--dangerous", "quarantine")
    assert ran.code == 3
    (pull,) = hub.pulls
    assert set(pull.files) - set(hub.files) == {"odd.safetensors", "good.safetensors"}
    left_out = pull.body.partition("Not in this pull request")[2]
    assert "`evil.pt` | `quarantined`" in left_out
    assert "posix.system" in left_out
    assert "`bad.ckpt` | `refused: " in left_out


def test_what_the_repository_has_already_is_not_added(hub: PullServer) -> None:
    hub.files = {"a.pt": trained()}
    assert run().code == 0
    merged = hub.pulls[0].files["a.safetensors"]
    hub.files, hub.pulls[0].status = {"a.pt": trained(), "a.safetensors": merged}, "merged"
    ran = run("--json", out="again")
    assert ran.code == 0
    assert told(ran)["state"] == "nothing"
    assert len(hub.pulls) == 1
    assert "nothing to add" in ran.err


def test_a_safetensors_file_is_replaced_only_where_it_changed(hub: PullServer) -> None:
    hub.files = {"a.pt": trained()}
    assert run("--ema", "keep").code == 0
    whole = hub.pulls[0].files["a.safetensors"]
    hub.pulls, hub.files = [], {"whole.safetensors": whole}
    assert run("--ema", "drop", out="smaller").code == 0
    (pull,) = hub.pulls
    assert set(pull.files) == {"whole.safetensors"}
    assert pull.files["whole.safetensors"] == Path("smaller/whole.safetensors").read_bytes() != whole
    assert "(replaces the file)" in pull.body


def test_a_header_written_anew_is_no_reason_to_replace_a_file(hub: PullServer) -> None:
    one, other = ({f"{name}.weight": torch.ones(400)} for name in "ab")
    where = {"weight_map": {"a.weight": "m-1.safetensors", "b.weight": "m-2.safetensors"}, "metadata": {}}
    hub.files = {"m-1.safetensors": save(one), "m-2.safetensors": save(other), "single.safetensors": save(one)}
    hub.files["m.safetensors.index.json"] = json.dumps(where).encode()
    ran = run("--json")
    assert ran.code == 0, ran.err
    assert Path("clean/single.safetensors").read_bytes() != hub.files["single.safetensors"]
    assert told(ran)["state"] == "nothing"
    assert not hub.pulls


def test_no_other_file_is_ever_replaced(hub: PullServer) -> None:
    hub.files = {"a.pt": embedding(), "a.safetensors": b"somebody's own, longer than a small file" * 40}
    assert run(source=f"{REPO}/a.pt").code == 0
    (pull,) = hub.pulls
    assert pull.files["a.safetensors"] == hub.files["a.safetensors"]
    assert pull.files["a.pt.safetensors"] == Path("clean/a.safetensors").read_bytes()


def test_sources_of_one_repository_become_one(hub: PullServer) -> None:
    hub.files = {"other.pt": lora(), "sub/b.pt": embedding(), "left.pt": trained()}
    assert ckptool("sanitize", f"{REPO}/other.pt", f"{REPO}/sub", "--out", "clean", "--pr").code == 0
    (pull,) = hub.pulls
    assert set(pull.files) - set(hub.files) == {"other.safetensors", "sub/b.safetensors"}


def test_a_folder_of_a_repository_keeps_its_place(hub: PullServer) -> None:
    hub.files = {"other.pt": lora(), "sub/b.pt": embedding()}
    assert run(source=f"{REPO}/sub").code == 0
    assert set(hub.pulls[0].files) - set(hub.files) == {"sub/b.safetensors"}


# --- the text ------------------------------------------------------------------------------------------------------


def test_the_text_says_what_was_found_changed_and_proved(hub: PullServer) -> None:
    hub.files = {"evil.pt": evil(), "a.ckpt": trained()}
    assert run("--dtype", "fp16").code == 1
    body = hub.pulls[0].body
    row = next(line for line in body.splitlines() if line.startswith("| `evil.pt`"))
    assert "textual-inversion for sd1" in row
    assert "posix.system('touch PWNED')" in row
    assert "byte 385" in row
    row = next(line for line in body.splitlines() if line.startswith("| `a.ckpt`"))
    assert "without EMA" in row
    assert "F32 to F16" in row
    assert "parity shown, tensor by tensor" in row
    for name, data in (("evil", hub.files["evil.pt"]), ("a", hub.files["a.ckpt"])):
        assert sha256(data).hexdigest() in body
        assert sha256(Path(f"clean/{name}.safetensors").read_bytes()).hexdigest() in body
    assert "precision: fp16" in body
    assert COMMIT in body
    assert TOKEN not in body
    assert os.getcwd() not in body


def test_the_commands_of_the_text_prove_the_pull_request(hub: PullServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files = {"a.ckpt": trained()}
    assert run("--dtype", "fp16", "--threshold", "1e-5").code == 0
    found = re.search(r"^ckptool (verify .*)$", hub.pulls[0].body, re.M)
    assert found is not None
    source, candidate, *options = found[1].replace("/N/", "/1/").split()[1:]
    for number, address in enumerate((source, candidate)):
        data = (hub.files if number == 0 else hub.pulls[0].files)[address.rpartition("/")[2]]
        Path(f"{number}.bin").write_bytes(data)
    ran = ckptool("verify", "0.bin", "1.bin", *options)
    assert ran.code == 0, ran.err


def test_nothing_of_an_upload_is_markup(hub: PullServer) -> None:
    hub.files = {EVIL: odd(), "![](http:/e.vil)/www.e.vil @all.pt": evil()}
    run()
    body = hub.pulls[0].body
    outside = re.sub(r"`[^`\n]*`", "", re.sub(r"```sh\n.*?```", "", body, flags=re.S))
    for mark in ("@", "<", "](", "e.vil", "`", "everyone"):
        assert mark not in outside
    assert "@" not in re.sub(r"```sh\n.*?```", "", body, flags=re.S), "not even where nothing is markup"
    assert all(line.count("|") in (7, 4, 3) for line in body.splitlines() if line.startswith("|"))


def test_a_code_span_has_one_line_and_one_end() -> None:
    assert code("x\n\n| `y` @all\u202e") == "`x\\n\\n\\x7c \\x60y\\x60 \\x40all\\u202e`"


def test_no_name_of_a_file_reaches_a_shell(hub: PullServer) -> None:
    hub.files = {"a; rm -rf x.pt": embedding(), "$(id).pt": lora(), "plain.pt": trained()}
    run()
    commands = re.findall(r"^ckptool verify .*$", hub.pulls[0].body, re.M)
    assert "pip install" not in hub.pulls[0].body  # of a name that anybody may register
    assert len(commands) == 1
    assert "plain.pt" in commands[0]


def test_a_long_text_is_cut_and_keeps_its_end(hub: PullServer) -> None:
    hub.files = {f"{'long' * 20}-{number:03}.pt": embedding() for number in range(60)}
    assert run().code == 0
    body = hub.pulls[0].body
    assert len(body) <= MOST
    assert "more |" in body
    assert is_marked(body, COMMIT, Policy())


# --- only one ------------------------------------------------------------------------------------------------------


def test_a_second_run_opens_no_second_one(hub: PullServer) -> None:
    hub.files = {"a.pt": embedding()}
    hub.pulls = [Pull(f"Other {number}", "", {}) for number in range(7)]
    assert run().code == 0
    ran = run("--json")
    assert ran.code == 0
    assert len(hub.pulls) == 8
    assert told(ran)["state"] == "there"
    assert told(ran)["number"] == 8
    assert "#8 by tester" in ran.err


def test_another_policy_is_another_pull_request(hub: PullServer) -> None:
    hub.files = {"a.pt": trained()}
    assert run().code == 0
    assert run("--dtype", "fp16").code == 0
    assert len(hub.pulls) == 2
    assert hub.pulls[0].title != hub.pulls[1].title


def test_a_closed_one_is_not_opened_again(hub: PullServer) -> None:
    hub.files = {"a.pt": embedding()}
    assert run().code == 0
    hub.pulls[0].status = "closed"
    ran = run("--json")
    assert ran.code == 0
    assert told(ran)["state"] == "closed"
    assert len(hub.pulls) == 1


def test_one_that_only_says_so_is_named_and_not_believed(hub: PullServer) -> None:
    hub.files = {"a.pt": embedding()}
    assert run().code == 0
    first = hub.pulls[0]
    hub.pulls = [Pull(first.title, first.body, {**first.files, "extra.bin": b"run me"}, author="mallory")]
    ran = run()
    assert ran.code == 3
    assert len(hub.pulls) == 1
    assert "#1 by mallory" in ran.err
    assert "holds other files" in ran.err
    hub.pulls[0].status = "closed"
    assert run().code == 0
    assert len(hub.pulls) == 2, "a closed fake keeps nobody from opening it"


def test_a_title_alone_says_nothing(hub: PullServer) -> None:
    hub.files = {"a.pt": embedding()}
    in_a_table = "| `ckptool-pull commit=x` |"
    hub.pulls = [Pull(title_of(COMMIT, Policy()), in_a_table, {}, author="")]
    assert run().code == 0
    assert len(hub.pulls) == 2


def test_an_answer_that_is_lost_opens_no_second_one(hub: PullServer) -> None:
    hub.files, hub.upset = {"a.pt": embedding()}, {"commit": ["lost"]}
    ran = run("--json")
    assert ran.code == 0, ran.err
    assert len(hub.pulls) == 1
    assert told(ran)["state"] == "opened"


# --- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        ("list", "503"),
        ("preupload", "429 1"),
        ("batch", "500"),
        ("put", "503"),
        ("commit", "429 1"),
        ("commit", "broken"),
    ],
)
def test_what_passes_is_asked_again(what: str, fault: str, hub: PullServer) -> None:
    hub.files, hub.upset = {"a.pt": embedding()}, {what: [fault]}
    ran = run()
    assert ran.code == 0, ran.err
    assert len(hub.pulls) == 1
    assert not hub.upset[what]
    safe(hub)


def test_a_broken_upload_is_sent_again(hub: PullServer) -> None:
    hub.files, hub.upset = {"a.pt": large()}, {"put": ["broken"]}
    ran = run()
    assert ran.code == 0, ran.err
    assert hub.pulls[0].files["a.safetensors"] == Path("clean/a.safetensors").read_bytes()


def test_a_large_file_goes_in_parts(hub: PullServer) -> None:
    hub.files, hub.chunk, hub.upset = {"a.pt": large()}, 500_000, {"put": ["", "503"]}
    ran = run()
    assert ran.code == 0, ran.err
    assert hub.puts == 6
    assert hub.pulls[0].files["a.safetensors"] == Path("clean/a.safetensors").read_bytes()
    safe(hub)


def test_without_the_right_the_next_run_only_opens_it(hub: PullServer) -> None:
    hub.files, hub.upset = {"a.pt": embedding(), "b.pt": lora()}, {"commit": ["403"]}
    ran = run("--json")
    assert ran.code == 3
    assert told(ran)["state"] == "failed"
    assert "403" in ran.err
    assert "may write or open pull requests" in ran.err
    assert "Traceback" not in ran.err
    assert TOKEN not in ran.err + ran.out
    assert ckptool("receipt", "verify", "clean").code == 0
    puts, read = hub.puts, hub.bytes_asked
    ran = run("--json")
    assert ran.code == 0, ran.err
    assert {line["action"] for line in map(json.loads, ran.out.splitlines()[:-1])} == {"skipped"}
    assert hub.puts == puts, "what was sent is not sent again"
    assert hub.bytes_asked == read
    assert len(hub.pulls) == 1


def test_nobody_waits_for_hours(hub: PullServer) -> None:
    hub.files, hub.upset = {"a.pt": embedding()}, {"preupload": ["429 7200"]}
    ran = run()
    assert ran.code == 3
    assert "7,200 s" in ran.err


def test_signed_addresses_stay_out_of_sight(hub: PullServer, caplog: pytest.LogCaptureFixture) -> None:
    hub.files, hub.upset = {"a.pt": embedding()}, {"put": ["503", *["400"] * 5]}
    ran = run()
    assert ran.code == 3
    assert "400" in ran.err
    assert "signature" not in ran.err + ran.out + caplog.text


def test_the_token_follows_no_redirect(hub: PullServer) -> None:
    hub.files, hub.upset = {"a.pt": embedding()}, {"preupload": ["moved"]}
    ran = run()
    assert ran.code == 0, ran.err  # it is asked again, and answers itself
    assert [seen for seen in hub.seen if seen[0].startswith("localhost") and "preupload" in seen[1]]
    safe(hub)


def test_a_pull_request_without_the_files_is_no_success(hub: PullServer) -> None:
    hub.files, hub.ignored = {"a.pt": embedding(), "b.pt": lora()}, ("a.safetensors",)
    ran = run()
    assert ran.code == 3
    assert "does not show what was sent" in ran.err
    assert "discussions/1" in ran.err


def test_bytes_that_nobody_proved_are_not_sent(hub: PullServer) -> None:
    hub.files, hub.upset = {"a.pt": embedding()}, {"commit": ["403"]}
    assert run().code == 3
    path = Path("clean/a.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    hub.objects.clear()
    ran = run()
    assert ran.code == 3
    assert "is not what its receipt says" in ran.err
    assert not hub.pulls
    assert not hub.objects


def test_killed_while_it_sends_the_next_run_opens_it(hub: PullServer) -> None:
    hub.files, hub.upset = {"a.pt": large()}, {"put": ["hangs"]}
    command = [*COMMAND, REPO, "--out", "clean", "--pr"]
    with subprocess.Popen(command, env=os.environ | {"HF_HUB_DISABLE_XET": "1"}) as process:
        while not hub.puts and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not hub.pulls
    ran = run("--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out.splitlines()[0])["action"] == "skipped"
    assert told(ran)["state"] == "opened"
    assert len(hub.pulls) == 1


def test_the_webhook_answers_a_push_with_a_pull_request(hub: PullServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files = {"a.pt": embedding(), "evil.pt": evil()}
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    spec = importlib.util.spec_from_file_location("hub_webhook", ROOT / "examples/hub_webhook.py")
    assert spec is not None
    assert spec.loader is not None
    webhook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(webhook)
    for _ in range(2):
        webhook.sanitize("owner/model", COMMIT)
    (pull,) = hub.pulls
    assert set(pull.files) - set(hub.files) == {"a.safetensors"}


# --- before anything is done ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("folder", (), "in no repository of the Hub"),
        ("https://example.org/a.ckpt", (), "in no repository of the Hub"),
        (f"{REPO}@refs/pr/1", (), "go to the main branch"),
        (f"{REPO}@fp16", (), "go to the main branch"),
        (REPO, ("--shard", "1/2"), "--pr with --shard"),
        (REPO, ("--out", "s3://bucket/x"), "from a folder of this machine"),
    ],
)
def test_what_can_have_none_is_refused_at_once(
    source: str, options: tuple[str, ...], says: str, hub: PullServer, tmp_path: Path
) -> None:
    hub.files = {"a.pt": embedding()}
    write(tmp_path / "folder", {"a.pt": embedding()})
    ran = run(*options, source=source)
    assert ran.code == 2, ran.err
    assert says in ran.err
    assert not Path("clean").exists()
    assert not hub.asked


def test_without_a_login_nothing_is_done(hub: PullServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    hub.files, hub.needs_token = {"a.pt": embedding()}, False
    ran = run()
    assert ran.code == 2
    assert "hf auth login" in ran.err
    assert not Path("clean").exists()
    assert not hub.seen


def test_a_tag_of_the_main_branch_is_taken(hub: PullServer) -> None:
    hub.files = {"a.pt": embedding()}
    assert run(source=f"{REPO}@v1").code == 0
    assert hub.pulls[0].parent == COMMIT


MEASURE = """
import sys
from pathlib import Path
from ckptool.convert.remote_hub import Hub
from ckptool.sanitize.pull.client import send
from ckptool.sanitize.pull.files import Offer
from ckptool.hashes import sha256_of
path = Path(sys.argv[1])
offer = Offer("a.pt", {}, path, sha256=sha256_of(path), goal="a.safetensors")
send(Hub("owner/model", "", sys.argv[2]), sys.argv[3], "title", "body", [offer])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_an_upload_takes_the_same_memory_whatever_its_size(hub: PullServer, tmp_path: Path) -> None:
    hub.keeps = False
    peaks = []
    for size in (1 << 20, 1 << 26):
        path = tmp_path / str(size)
        path.touch()
        os.truncate(path, size)
        command = [sys.executable, "-c", MEASURE, str(path), COMMIT, TOKEN]
        done = subprocess.run(command, env=os.environ | {"HF_HUB_DISABLE_XET": "1"}, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < 1 << 24


def test_where_xet_breaks_what_sends_without_it_is_named() -> None:
    said = meaning(Hub("owner/model", ""), ConnectionError("Network error"), TOKEN)
    assert "HF_HUB_DISABLE_XET=1" in str(said)
