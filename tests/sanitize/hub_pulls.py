"""The Hub's side of a pull request, on this machine: what it asks for, where it wants the bytes, and how it fails."""

import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.convert.hub_server import COMMIT, TOKEN, HubHandler, Quiet, Server, entry

PAGE = 3
"""Pull requests in one answer of their list."""


@dataclass(slots=True, eq=False)
class Pull:
    """A pull request: the files of its branch, and what its page says."""

    title: str
    body: str
    files: dict[str, bytes]
    author: str = "tester"
    status: str = "open"
    parent: str = COMMIT


@dataclass(slots=True, eq=False)
class PullServer(Server):
    """A Hub that takes uploads and pull requests."""

    pulls: list[Pull] = field(default_factory=list)
    """Number n stands at n - 1."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """What was uploaded, by its sha256."""
    parts: dict[str, bytes] = field(default_factory=dict)
    chunk: int = 0
    """Files are to be sent in parts of so many bytes; 0 is in one."""
    upset: dict[str, list[str]] = field(default_factory=dict)
    """Of `preupload`, `batch`, `put`, `commit`, `list`: faults, the first one first."""
    ignored: tuple[str, ...] = ()
    """What a .gitignore of the repository keeps out."""
    verified: list[str] = field(default_factory=list)
    puts: int = 0
    keeps: bool = True
    """Whether the bytes of uploads are kept, or only hashed."""

    def trouble(self, what: str) -> str:
        with self.lock:
            return self.upset[what].pop(0) if self.upset.get(what) else ""


@contextmanager
def hub_with_pulls() -> Iterator[PullServer]:
    server = PullServer()

    class Handler(PullHandler):
        state = server

    httpd = Quiet(("127.0.0.1", 0), Handler)
    server.port = httpd.server_address[1]
    threading.Thread(target=lambda: httpd.serve_forever(0.01), daemon=True).start()
    try:
        yield server
    finally:
        server.released.set()
        httpd.shutdown()
        httpd.server_close()


class PullHandler(HubHandler):
    """Uploads go to the other host, which takes no token; all else is the Hub itself, which wants one."""

    state: PullServer

    def api(self, path: str, query: dict[str, list[str]]) -> None:
        state = self.state
        rest = path.removeprefix(state.repo)
        if rest == "/discussions":
            if not self.troubled("list"):
                self.listed(int(query["p"][0]))
        elif rest.startswith("/discussions/"):
            self.details(int(rest.rpartition("/")[2]))
        elif rest == "/refs":
            names = ("main", "fp16")
            self.answer({"branches": [{"name": name, "ref": f"refs/heads/{name}"} for name in names], "tags": []})
        elif rest.startswith("/revision/refs/pr/"):
            self.answer({"id": state.repo, "sha": commit_of(int(rest.rpartition("/")[2]))})
        elif rest in ("/revision/fp16", "/revision/v1"):
            self.answer({"id": state.repo, "sha": COMMIT})
        elif rest.startswith("/tree/") and rest != f"/tree/{COMMIT}":
            number = next(n for n in range(1, len(state.pulls) + 1) if commit_of(n) in rest)
            self.answer([entry(name, data) for name, data in sorted(state.pulls[number - 1].files.items())])
        else:
            super().api(path, query)

    def listed(self, page: int) -> None:
        numbered = list(enumerate(self.state.pulls, 1))[::-1]
        shown = [self.told(number, pull) for number, pull in numbered[page * PAGE : (page + 1) * PAGE]]
        self.answer({"discussions": shown, "count": len(numbered), "start": page * PAGE, "numClosedDiscussions": 0})

    def told(self, number: int, pull: Pull) -> dict[str, Any]:
        author = {"author": {"name": pull.author, "type": "user"}} if pull.author else {}
        repo = {"name": self.state.repo, "type": "model"}
        when = "2026-11-24T12:00:00.000Z"
        return {"num": number, "title": pull.title, "status": pull.status, "createdAt": when, "repo": repo,
                "isPullRequest": True, **author}  # fmt: skip

    def details(self, number: int) -> None:
        pull = self.state.pulls[number - 1]
        comment = {"edited": False, "hidden": False, "latest": {"raw": pull.body, "html": "<p>…</p>"}}
        events = [
            {"id": "1", "type": "comment", "createdAt": "2026-11-24T12:00:00.000Z", "data": comment},
            {"id": "2", "type": "commit", "data": {"subject": pull.title, "oid": commit_of(number)}},
        ]
        self.answer(self.told(number, pull) | {"events": events, "changes": {"base": "refs/heads/main"}})

    # --- uploads -----------------------------------------------------------------------------------------------

    def do_POST(self) -> None:
        state, url = self.state, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with state.lock:
            state.seen.append((self.headers["host"], self.path, self.headers.get("authorization", "")))
        path = unquote(url.path)
        if path.startswith("/complete/"):
            self.complete(path.removeprefix("/complete/"), json.loads(body))
        elif self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.plain(401, b'{"error": "Invalid username or password."}')
        elif path == f"/api/models/{state.repo}/preupload/main":
            if not self.troubled("preupload"):
                self.preupload(json.loads(body)["files"])
        elif path == f"/{state.repo}.git/info/lfs/objects/batch":
            if not self.troubled("batch"):
                self.batch(json.loads(body))
        elif path == "/verify":
            state.verified.append(json.loads(body)["oid"])
            self.answer({})
        elif path == f"/api/models/{state.repo}/commit/main":
            self.commit([json.loads(line) for line in body.splitlines()], parse_qs(url.query))
        else:
            self.plain(404, b"{}")

    def do_PUT(self) -> None:
        state, url = self.state, urlsplit(self.path)
        with state.lock:
            state.seen.append((self.headers["host"], self.path, self.headers.get("authorization", "")))
            state.puts += 1
        length = self.headers.get("content-length")
        if self.headers.get("authorization") or "signature=abc" not in url.query or length is None:
            self.plain(400 if length else 411, b"")
            self.close_connection = True
            return
        fault = state.trouble("put")
        if fault == "hangs":
            state.released.wait(20)
        if fault == "broken":
            self.rfile.read(int(length) // 2)
            self.connection.close()
            self.close_connection = True
            return
        data, left, digest = [], int(length), sha256()
        while left:
            piece = self.rfile.read(min(left, 1 << 20))
            left -= len(piece)
            digest.update(piece)
            if state.keeps:
                data.append(piece)
        name = url.path.removeprefix("/upload/")
        oid, _, number = name.partition("/")
        if fault:
            self.failed(fault)
        elif number:
            state.parts[name] = b"".join(data)
            self.plain(200, b"", {"ETag": f'"{sha1(state.parts[name]).hexdigest()}"'})
        elif digest.hexdigest() != oid:
            self.plain(400, b"")
        else:
            state.objects[oid] = b"".join(data)
            self.plain(200, b"", {"ETag": '"one"'})

    def preupload(self, files: list[dict[str, Any]]) -> None:
        ignored = self.state.ignored
        told = [{"path": file["path"], "uploadMode": "lfs", "shouldIgnore": file["path"] in ignored} for file in files]
        self.answer({"files": told})

    def batch(self, asked: dict[str, Any]) -> None:
        self.answer({"transfer": "basic", "objects": [self.instructions(item) for item in asked["objects"]]})

    def instructions(self, item: dict[str, Any]) -> dict[str, Any]:
        state, oid, size = self.state, item["oid"], item["size"]
        told = {"oid": oid, "size": size, "authenticated": True}
        if oid in state.objects:
            return told
        verify = {"href": f"{state.endpoint}/verify"}
        if not state.chunk:
            upload = {"href": f"{state.other}/upload/{oid}?signature=abc"}
            return told | {"actions": {"upload": upload, "verify": verify}}
        count = -(-size // state.chunk)
        header = {f"{n:05}": f"{state.other}/upload/{oid}/{n}?signature=abc" for n in range(1, count + 1)}
        upload_in_parts = {
            "href": f"{state.endpoint}/complete/{oid}",
            "header": header | {"chunk_size": str(state.chunk)},
        }
        return told | {"actions": {"upload": upload_in_parts, "verify": verify}}

    def complete(self, oid: str, asked: dict[str, Any]) -> None:
        parts = [self.state.parts[f"{oid}/{part['partNumber']}"] for part in asked["parts"]]
        etags = [f'"{sha1(part).hexdigest()}"' for part in parts]
        data = b"".join(parts)
        if [part["etag"] for part in asked["parts"]] != etags or sha256(data).hexdigest() != oid:
            self.plain(400, b"{}")
            return
        self.state.objects[oid] = data
        self.answer({"success": True})

    def commit(self, lines: list[dict[str, Any]], query: dict[str, list[str]]) -> None:
        state = self.state
        fault = state.trouble("commit")
        if fault and fault != "lost":
            self.failed(fault)
            return
        head, *files = lines
        if query.get("create_pr") != ["1"] or head["value"].get("parentCommit") != COMMIT:
            self.plain(403, b'{"error": "no right to write"}')
            return
        branch = dict(state.files)
        for file in files:
            value = file["value"]
            branch[value["path"]] = (
                state.objects[value["oid"]] if file["key"] == "lfsFile" else b64decode(value["content"])
            )
        state.pulls.append(Pull(head["value"]["summary"], head["value"]["description"], branch))
        number = len(state.pulls)
        if fault == "lost":
            self.connection.close()
            self.close_connection = True
            return
        page = f"{state.endpoint}/{state.repo}"
        self.answer({"success": True, "commitOid": commit_of(number), "commitUrl": f"{page}/commit/{commit_of(number)}",
                     "hookOutput": "", "pullRequestUrl": f"{page}/discussions/{number}"})  # fmt: skip

    # --- answers -----------------------------------------------------------------------------------------------

    def troubled(self, what: str) -> bool:
        fault = self.state.trouble(what)
        if fault:
            self.failed(fault)
        return bool(fault)

    def failed(self, fault: str) -> None:
        """`503`, `429 2` with the seconds to wait, `moved` to the other host, or `broken`."""
        status, _, wait = fault.partition(" ")
        if status == "moved":
            self.plain(307, b"", {"Location": f"{self.state.other}{self.path}"})
        elif status == "broken":
            self.connection.close()
            self.close_connection = True
        else:
            self.plain(int(status), b'{"error": "Not now."}', {"Retry-After": wait} if wait else {})

    def answer(self, data: Any) -> None:
        self.plain(200, json.dumps(data).encode(), {"Content-Type": "application/json"})


def commit_of(number: int) -> str:
    """The last commit of a pull request."""
    return f"{number:040x}"
