"""A small HTTP server on this machine that answers as the Hub does, and fails as networks do."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secret_of_the_test"
LARGE = 1000
"""Bytes of a file from which on it is kept apart from the small ones."""


@dataclass(slots=True, eq=False)
class Server:
    """What is served, and how."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Path in the repository -> bytes."""
    repo: str = "owner/model"
    needs_token: bool = False
    cdn: bool = True
    """Files come from another host, to which `resolve` redirects."""
    faults: list[str] = field(default_factory=list)
    """One for each answer with a file's bytes, the first one first; "" is none."""
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    """Path, offset and length of each range that was asked for."""
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    """Host, path and authorization of every request."""
    port: int = 0
    page: int = 1000
    """Entries in one answer of a list."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)
    """Set at the end: what hangs goes on."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def other(self) -> str:
        """The same server by the name of another host."""
        return f"http://localhost:{self.port}"

    @property
    def bytes_asked(self) -> int:
        return sum(length for _, _, length in self.asked)

    def fault(self) -> str:
        with self.lock:
            return self.faults.pop(0) if self.faults else ""


@contextmanager
def serving(**files: bytes) -> Iterator[Server]:
    """A server that runs while the context does; names with `__` for a slash are for short tests."""
    server = Server({name.replace("__", "/"): data for name, data in files.items()})

    class Handler(HubHandler):
        state = server

    httpd = Quiet(("127.0.0.1", 0), Handler)
    server.port = httpd.server_address[1]
    thread = threading.Thread(target=lambda: httpd.serve_forever(0.01), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        httpd.shutdown()
        httpd.server_close()


class Quiet(ThreadingHTTPServer):
    """Clients that go away in the middle are what the tests are about."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Nobody is told."""


class HubHandler(BaseHTTPRequestHandler):
    """api/models/…, …/resolve/…, cdn/… and plain files below /web/."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: Server

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:
        state, url = self.state, urlsplit(self.path)
        path = unquote(url.path)
        with state.lock:
            state.seen.append((self.headers["host"], self.path, self.headers.get("authorization", "")))
        if path.startswith("/api/models/"):
            self.api(path.removeprefix("/api/models/"), parse_qs(url.query))
        elif path.startswith("/cdn/"):
            self.cdn(path.removeprefix("/cdn/"), url.query)
        elif path.startswith("/web/"):
            self.file(path.removeprefix("/web/"))
        elif "/resolve/" in path:
            self.resolve(path.lstrip("/"))
        else:
            self.plain(404, b"")

    # --- the Hub -----------------------------------------------------------------------------------------------

    def allowed(self) -> bool:
        state = self.state
        if state.needs_token and self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.plain(401, b"{}", {"X-Error-Code": "GatedRepo"})
            return False
        return True

    def api(self, path: str, query: dict[str, list[str]]) -> None:
        state = self.state
        if not self.allowed():
            return
        if not path.startswith(state.repo):
            self.plain(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        rest = path.removeprefix(state.repo)
        if rest in ("", "/revision/main", "/revision/refs/pr/1", f"/revision/{COMMIT}"):
            self.plain(200, json.dumps({"id": state.repo, "sha": COMMIT}).encode())
        elif rest.rstrip("/") == f"/tree/{COMMIT}":
            start = int(query.get("cursor", ["0"])[0])
            names = sorted(state.files)
            entries = [entry(name, state.files[name]) for name in names]
            link = f'<{state.endpoint}/api/models/{path}?recursive=true&cursor={start + state.page}>; rel="next"'
            more = {"Link": link} if start + state.page < len(names) else {}
            self.plain(200, json.dumps(entries[start : start + state.page]).encode(), more)
        else:
            self.plain(404, b"{}", {"X-Error-Code": "RevisionNotFound"})

    def resolve(self, path: str) -> None:
        state = self.state
        repo, _, rest = path.partition("/resolve/")
        commit, _, name = rest.partition("/")
        if not self.allowed():
            return
        if repo != state.repo:
            self.plain(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif name not in state.files:
            self.plain(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif state.cdn:
            size = len(state.files[name])
            linked = {"X-Linked-Size": str(size), "X-Linked-ETag": f'"{size:064x}"', "X-Repo-Commit": commit}
            self.plain(302, b"gone on", {"Location": f"{state.other}/cdn/{quote(name)}?signature=abc", **linked})
        else:
            self.file(name)

    def cdn(self, name: str, query: str) -> None:
        if query != "signature=abc" or self.headers.get("authorization"):
            self.plain(400, b"")  # S3 takes no second way to log in
        else:
            self.file(name)

    # --- files -------------------------------------------------------------------------------------------------

    def file(self, name: str) -> None:
        state = self.state
        data = state.files.get(name)
        if data is None:
            self.plain(404, b"")
            return
        start, end = self.range(len(data))
        with state.lock:
            state.asked.append((name, start, end - start))
        fault, _, value = state.fault().partition(" ")
        if fault in FAULTS:
            FAULTS[fault](self, name, data, start, end, value)
        elif fault:
            wait = {"Retry-After": value} if value else {}
            self.plain(int(fault), b"later", wait)
        else:
            self.partial(data, start, end)

    def range(self, size: int) -> tuple[int, int]:
        text = self.headers.get("range", "")
        if not text.startswith("bytes="):
            return 0, size
        first, _, last = text.removeprefix("bytes=").partition("-")
        return int(first), min(int(last) + 1, size) if last else size

    def partial(self, data: bytes, start: int, end: int, **changed: str) -> None:
        if start >= len(data):
            self.plain(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}", "ETag": '"one"', "Accept-Ranges": "bytes"}
        headers |= {key.replace("_", "-"): value for key, value in changed.items()}
        self.plain(206, data[start:end], headers)

    def plain(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    # --- faults ------------------------------------------------------------------------------------------------

    def broken(self, _: str, data: bytes, start: int, end: int, value: str) -> None:
        """The connection breaks after a part of the body."""
        self.head(data, start, end)
        self.wfile.write(data[start : start + int(value or (end - start) // 2)])
        self.end_here()

    def hangs(self, _: str, data: bytes, start: int, end: int, value: str) -> None:
        """The head and a few bytes, then nothing more."""
        self.head(data, start, end)
        self.wfile.write(data[start : start + int(value or 10)])
        self.wfile.flush()
        self.state.released.wait(20)
        self.end_here()

    def trickles(self, _: str, data: bytes, start: int, end: int, value: str) -> None:
        """A byte now and then."""
        self.head(data, start, end)
        for at in range(start, end):
            if self.state.released.wait(0.05):
                break
            try:
                self.wfile.write(data[at : at + 1])
            except OSError:
                break
        self.end_here()

    def ignores(self, _: str, data: bytes, start: int, end: int, value: str) -> None:
        """Ranges are not known here: all of the file."""
        self.plain(200, data)

    def changed(self, _: str, data: bytes, start: int, end: int, value: str) -> None:
        self.partial(data, start, end, ETag='"two"')

    def grown(self, _: str, data: bytes, start: int, end: int, value: str) -> None:
        self.partial(data + b"more", start, end)

    def other_range(self, _: str, data: bytes, start: int, end: int, value: str) -> None:
        self.partial(data, start, end, Content_Range=f"bytes {start + 1}-{end}/{len(data)}")

    def more(self, _: str, data: bytes, start: int, end: int, value: str) -> None:
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}", "ETag": '"one"'}
        self.plain(206, data[start:end] + b"surplus", headers)

    def chunked_more(self, _: str, data: bytes, start: int, end: int, value: str) -> None:
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("ETag", '"one"')
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        body = data[start:end] + b"surplus"
        self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")

    def packed(self, _: str, data: bytes, start: int, end: int, value: str) -> None:
        self.partial(data, start, end, Content_Encoding="gzip")

    def to(self, _: str, data: bytes, start: int, end: int, value: str) -> None:
        """Somewhere else; `loop` is here again."""
        self.plain(302, b"", {"Location": self.path if value == "loop" else value})

    def garbage(self, _: str, data: bytes, start: int, end: int, value: str) -> None:
        """Not even HTTP."""
        self.wfile.write(b"\x00nonsense\r\n\r\n")
        self.end_here()

    def head(self, data: bytes, start: int, end: int) -> None:
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(end - start))
        self.end_headers()

    def end_here(self) -> None:
        self.wfile.flush()
        self.close_connection = True


def entry(name: str, data: bytes) -> dict[str, Any]:
    """A file in a list: a large one is kept by its sha256."""
    found: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}
    if len(data) > LARGE:
        found["lfs"] = {"oid": sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return found


FAULTS = {
    "broken": HubHandler.broken,
    "hangs": HubHandler.hangs,
    "trickles": HubHandler.trickles,
    "ignores": HubHandler.ignores,
    "changed": HubHandler.changed,
    "grown": HubHandler.grown,
    "other-range": HubHandler.other_range,
    "more": HubHandler.more,
    "chunked-more": HubHandler.chunked_more,
    "packed": HubHandler.packed,
    "to": HubHandler.to,
    "garbage": HubHandler.garbage,
}
