"""`--pr`: the outputs of a run as a pull request to the repository of the Hub that the sources came from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptool.address import HUB, Address, Source
from ckptool.convert.remote import Place
from ckptool.convert.remote_hub import COMMIT, LOGIN, Hub, token_or_none
from ckptool.convert.remote_patience import Passing, Waits
from ckptool.convert.remote_web import hub_address
from ckptool.errors import CkptoolError, Refused, Unreachable, UsageError
from ckptool.report import SCHEMA_VERSION, Report
from ckptool.sanitize.job import Job
from ckptool.sanitize.policy import Policy
from ckptool.sanitize.pull.body import body_of, title_of
from ckptool.sanitize.pull.client import send
from ckptool.sanitize.pull.files import Done, Offer, offers_of
from ckptool.sanitize.pull.found import Found, found_pull, page_of, same_files
from ckptool.text import escape, plural

MAIN = "main"


@dataclass(frozen=True, slots=True)
class Pulled:
    """What became of one repository."""

    hub: Hub
    state: str
    """opened, there (by an earlier run, or by somebody else), closed, nothing (is to be added), or failed."""
    files: int = 0
    """Outputs that are in it."""
    number: int | None = None
    author: str | None = None

    @property
    def url(self) -> str | None:
        return page_of(self.hub, self.number) if self.number is not None else None

    @property
    def data(self) -> Report:
        """A line of `--json`, after those of the files; its `path` is the repository."""
        shown, told = self.hub.label(""), {"state": self.state, "url": self.url, "number": self.number}
        told |= {"author": self.author, "files": self.files, "repository": self.hub.repo, "commit": self.hub.commit}
        return {
            "schema_version": SCHEMA_VERSION,
            "source": shown,
            "path": shown,
            "action": "pull-request",
            "pull_request": told,
        }

    def __str__(self) -> str:
        count, by = plural(self.files, "file"), escape(self.author or "", 80)
        told = {
            "opened": f"pull request opened with {count}: {self.url}",
            "there": f"there is a pull request with the same {count} already, #{self.number} by {by}: {self.url}",
            "closed": f"a pull request with the same {count} was closed, #{self.number} by {by}: {self.url}",
        }
        return f"{escape(self.hub.label(''), 1000)}: {told.get(self.state, 'nothing to add, so no pull request')}"


def failed_data(hub: Hub, error: CkptoolError) -> Report:
    """The same line where there is no pull request in the end."""
    told = {"message": error.message, "hint": error.hint}
    return Pulled(hub, "failed").data | {"error": told}


def check_pull(sources: Sequence[Source], out: Path | Address, shard: tuple[int, int] | None) -> None:
    """Before anything is done. Raises UsageError where no pull request can be made, and without a token."""
    if isinstance(out, Address):
        raise UsageError("--pr: the outputs are sent from a folder of this machine", "give a folder for --out")
    if shard is not None:
        raise UsageError("--pr with --shard: each part would open a pull request", "--cluster takes several machines")
    hubs = [hub_of(source) for source in sources]
    if not token_or_none():
        raise UsageError("--pr: a pull request needs a login on the Hub", LOGIN)
    for hub in hubs:
        check_revision(hub)


def hub_of(source: Source) -> Hub:
    """The repository of a source. Raises UsageError where it is in none."""
    address = source
    if isinstance(address, Address) and address.scheme != "hf":
        address = hub_address(address) or address
    found = HUB.fullmatch(address.url) if isinstance(address, Address) else None
    if found is None:
        raise UsageError(
            f"--pr: {escape(str(source), 1000)} is in no repository of the Hub",
            "give hf://owner/repo, or leave out --pr",
        )
    return Hub(found[1], found[2] or "")


def check_revision(hub: Hub) -> None:
    """Raises UsageError for a branch beside the main one, all of which would be merged with the outputs."""
    endpoint = hub.checked_endpoint()
    beside = UsageError(
        f"--pr: {escape(hub.label(''), 1000)}: pull requests of the Hub go to the main branch",
        "give the repository without a revision, or a tag or a commit of its main branch",
    )
    if hub.revision.startswith("refs/"):
        raise beside
    if hub.revision in ("", MAIN) or COMMIT.fullmatch(hub.revision):
        return
    answer, _ = hub.ask(f"{endpoint}/api/models/{hub.repo}/refs", "")
    branches = answer.get("branches") if isinstance(answer, dict) else None
    for branch in branches if isinstance(branches, list) else ():
        if isinstance(branch, dict) and branch.get("name") == hub.revision:
            raise beside


def batches(jobs: Iterable[Job], reports: Iterable[Report]) -> list[tuple[Hub, list[Done]]]:
    """Each repository at its commit, with what became of its files."""
    shown = {job.shown: job for job in jobs}
    found: dict[tuple[str, str], tuple[Hub, list[Done]]] = {}
    for report in reports:
        job = shown.get(str(report["path"]))
        if job is not None and isinstance(job.path, Place) and isinstance(job.path.store, Hub):
            hub = job.path.store
            _, done = found.setdefault((hub.repo, hub.commit), (hub, []))
            done.append(Done(job.path.path, report, job.released))
    return list(found.values())


def pull(hub: Hub, policy: Policy, done: Sequence[Done]) -> Pulled:
    """Open the pull request, unless there is one. `hub` is pinned to the commit that was read.

    Raises Refused where there is none in the end; outputs and receipts stay, so the next run has only this to do.
    """
    try:
        offers = offers_of(done, hub.files())
        taken = [offer for offer in offers if offer.goal]
        if not taken:
            return Pulled(hub, "nothing")
        found = found_pull(hub, policy, taken)
        if found is not None:
            return told(hub, taken, found, "there" if found.open else "closed")
        return opened(hub, policy, offers, taken)
    except UsageError as error:  # the files are done: this is no longer about what was asked for
        raise Refused(error.message, error.hint) from error


def opened(hub: Hub, policy: Policy, offers: list[Offer], taken: list[Offer]) -> Pulled:
    """Send it. An answer that was lost on the way opens no second one."""
    label = escape(hub.label(""), 1000)
    title, body = title_of(hub.commit, policy), body_of(hub.repo, hub.commit, policy, offers)
    waits, failed = Waits(f"{label}: no pull request", hub.patience), 0
    while True:
        try:
            number = send(hub, token_or_none() or "", title, body, taken)
            break
        except (Unreachable, Passing) as error:
            found = found_pull(hub, policy, taken)
            if found is not None:
                return told(hub, taken, found, "opened")
            if isinstance(error, Unreachable):
                raise
            failed += 1
            waits.wait(error, failed)
    if not same_files(hub, number, taken):
        raise Refused(
            f"{label}: pull request #{number} does not show what was sent: {page_of(hub, number)}",
            "look at it: a .gitignore of the repository may keep files out",
        )
    return Pulled(hub, "opened", len(taken), number)


def told(hub: Hub, taken: list[Offer], found: Found, state: str) -> Pulled:
    return Pulled(hub, state, len(taken), found.number, found.author)
