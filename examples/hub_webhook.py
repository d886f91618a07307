"""A webhook of the Hugging Face Hub: every push to a watched model repository goes through `ckptool sanitize --pr`.

Set WEBHOOK_SECRET to the secret of the webhook (https://huggingface.co/settings/webhooks), HF_TOKEN to a token that may
open pull requests, OUT to a folder, and run it behind a server that speaks TLS:  python examples/hub_webhook.py

A pull request, and its merge, are pushes too: what is done already is skipped, so nothing goes round in circles.
"""

import hmac
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue

MOST = 1 << 20
FORMS = {"name": r"[\w.-]{1,96}/[\w.-]{1,96}", "headSha": r"[0-9a-f]{40}"}
"""A repository and a commit: what comes from outside becomes a path and an argument."""

pushes: "Queue[tuple[str, str]]" = Queue()


class Handler(BaseHTTPRequestHandler):
    """Answers at once, so that the Hub does not wait: the work is done by one thread, push by push."""

    def do_POST(self) -> None:
        secret, given = os.environ["WEBHOOK_SECRET"], self.headers.get("X-Webhook-Secret", "")
        length = int(self.headers.get("Content-Length", 0))
        if not hmac.compare_digest(secret.encode(), given.encode()) or not 0 < length <= MOST:
            self.send_error(403)
            return
        push = push_of(json.loads(self.rfile.read(length)))
        if push is not None:
            pushes.put(push)
        self.send_response(202 if push is not None else 200)
        self.end_headers()


def push_of(event: dict) -> "tuple[str, str] | None":
    """The repository and the commit, of a push to a model; None for any other event."""
    what, repo = event.get("event", {}), event.get("repo", {})
    if repo.get("type") != "model" or what.get("action") == "delete" or what.get("scope") != "repo.content":
        return None
    found = repo.get("name"), repo.get("headSha")
    if not all(re.fullmatch(form, str(text)) for form, text in zip(FORMS.values(), found, strict=True)):
        return None
    return found


def sanitize(name: str, commit: str) -> None:
    """Read the commit where it is; what one push made is below OUT/owner/name/commit, and becomes a pull request."""
    out = Path(os.environ.get("OUT", "sanitized"), *name.split("/"), commit)
    out.parent.mkdir(parents=True, exist_ok=True)
    page = out.with_suffix(".html")
    command = ["ckptool", "sanitize", f"hf://{name}@{commit}", "--out", out, "--pr", "--dangerous", "quarantine"]
    done = subprocess.run([*command, "--report", page], check=False)
    print(f"{name}@{commit}: exit code {done.returncode}, {page}", file=sys.stderr)


def work() -> None:
    while True:
        try:
            sanitize(*pushes.get())
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)


if __name__ == "__main__":
    threading.Thread(target=work, daemon=True).start()
    HTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
