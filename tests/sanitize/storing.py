"""What the tests of outputs in a bucket share: an S3-compatible server, and a door before it that can be shut."""

import http.client
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "models"
HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}
XML = '<?xml version="1.0"?><Error><Code>{}</Code><Message>no</Message></Error>'

Rule = Callable[[str, str], str | None]
"""(method, path with query) -> None to let it through, "break" for no answer, "lost" for one that is lost, or the code
of an error such as AccessDenied."""


@dataclass(slots=True, eq=False)
class Door:
    """Where requests come in; `seen` holds each."""

    url: str
    rule: Rule = lambda method, path: None
    seen: list[tuple[str, str]] = field(default_factory=list)

    def puts(self) -> list[str]:
        return [path for method, path in self.seen if method == "PUT"]


@contextmanager
def s3_server() -> Iterator[Door]:
    """The address of a door before a running server."""
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    door = Door(f"http://127.0.0.1:{server.server_address[1]}")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = unquote(self.path)
            door.seen.append((self.command, path))
            told = door.rule(self.command, path)
            if told == "break":
                self.close_connection = True
                return
            if told is not None and told != "lost":
                self.answer(403 if told == "AccessDenied" else 500, {}, XML.format(told).encode())
                return
            there = http.client.HTTPConnection(host, port)
            try:
                there.request(self.command, self.path, body, dict(self.headers))
                answer = there.getresponse()
                data = answer.read()
            finally:
                there.close()
            if told == "lost":
                self.close_connection = True
                return
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in HOP}
            length = answer.getheader("content-length") if self.command == "HEAD" else None
            self.answer(answer.status, kept, data, length)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

        def answer(self, status: int, headers: dict[str, str], data: bytes, length: str | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", length or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server.RequestHandlerClass = Handler
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield door
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        running.stop()


def settings(door: Door) -> dict[str, str]:
    """The environment of who may use the bucket."""
    return {
        "AWS_ENDPOINT_URL": door.url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret-of-s3",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }  # fmt: skip


@dataclass(slots=True, eq=False)
class Objects:
    """What is in the bucket, seen by another library than the one that put it there."""

    door: Door
    client: Any = field(default_factory=lambda: boto3.client("s3"))

    def all(self, prefix: str = "") -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return {item["Key"][len(prefix) :]: self.get(item["Key"]) for item in listed}

    def get(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return data

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)

    def uploads(self) -> list[Any]:
        found: list[Any] = self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return found

    def clear(self) -> None:
        for key in self.all():
            self.delete(key)
        for upload in self.uploads():
            self.client.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
