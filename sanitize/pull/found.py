"""Whether there is a pull request already: by its title, by a line of its text, and by the files that it holds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ckptool.convert.remote_hub import Hub
from ckptool.errors import Refused, UsageError
from ckptool.sanitize.policy import Policy
from ckptool.sanitize.pull.body import is_marked, title_of
from ckptool.sanitize.pull.files import Offer
from ckptool.text import escape

MOST_PAGES, MOST_CHECKED = 200, 50
OPEN = ("open", "draft")
BY_THE_HUB = ".gitattributes"
"""The Hub itself changes it with a commit, where it does not name a large file yet."""


@dataclass(frozen=True, slots=True)
class Found:
    """A pull request that says to be for a commit and a policy."""

    number: int
    open: bool
    author: str


def found_pull(hub: Hub, policy: Policy, taken: Sequence[Offer]) -> Found | None:
    """The one with the same files, whoever opened it.

    Titles and texts can be written by anybody, so its files are what counts. Raises Refused for an open one that holds
    others; a closed one that does is passed over.
    """
    for found in candidates(hub, policy):
        if same_files(hub, found.number, taken):
            return found
        if found.open:
            raise Refused(
                f"{escape(hub.label(''), 1000)}: pull request #{found.number} by {escape(found.author, 80)} is for the"
                f" same commit and policy but holds other files: {page_of(hub, found.number)}",
                "look at it; when it is closed, the next run opens another",
            )
    return None


def page_of(hub: Hub, number: int) -> str:
    return f"{hub.checked_endpoint()}/{hub.repo}/discussions/{number}"


def candidates(hub: Hub, policy: Policy) -> Iterator[Found]:
    """Each that says to be for this commit and policy, open ones first."""
    title = title_of(hub.commit, policy)
    named = [
        item
        for item in listed(hub)
        if item.get("title") == title and item.get("isPullRequest") is True and type(item.get("num")) is int
    ]
    if len(named) > MOST_CHECKED:
        raise Refused(
            f"{escape(hub.label(''), 1000)}: has {len(named):,} pull requests with the title of this one",
            "open it by hand: the outputs are done",
        )
    named.sort(key=lambda item: (item.get("status") not in OPEN, item["num"]))
    for item in named:
        answer, _ = hub.ask(f"{hub.checked_endpoint()}/api/models/{hub.repo}/discussions/{item['num']}", "")
        if is_marked(first_comment(answer), hub.commit, policy):
            author = item.get("author")
            name = author.get("name") if isinstance(author, dict) else None
            yield Found(item["num"], item.get("status") in OPEN, name if isinstance(name, str) else "somebody")


def listed(hub: Hub) -> Iterator[dict[str, Any]]:
    """Every pull request, open or not, as the Hub lists them."""
    seen = 0
    for page in range(MOST_PAGES):
        url = f"{hub.checked_endpoint()}/api/models/{hub.repo}/discussions?type=pull_request&p={page}"
        answer, _ = hub.ask(url, "")
        found = answer.get("discussions") if isinstance(answer, dict) else None
        items = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
        yield from items
        seen += len(items)
        count = answer.get("count") if isinstance(answer, dict) else None
        if not items or type(count) is not int or seen >= count:
            return
    raise Refused(f"{escape(hub.label(''), 1000)}: its list of pull requests has no end", "open it by hand")


def first_comment(answer: Any) -> str:
    """The text of a pull request as it was written; empty where it has none."""
    events = answer.get("events") if isinstance(answer, dict) else None
    for event in events if isinstance(events, list) else ():
        if isinstance(event, dict) and event.get("type") == "comment":
            data: Any = event.get("data")
            latest = data.get("latest") if isinstance(data, dict) else None
            raw = latest.get("raw") if isinstance(latest, dict) else None
            return raw if isinstance(raw, str) else ""
    return ""


def same_files(hub: Hub, number: int, taken: Sequence[Offer]) -> bool:
    """Whether a pull request holds every output, to the byte, and changes nothing else."""
    theirs = Hub(hub.repo, f"refs/pr/{number}", patience=hub.patience)
    try:
        theirs.pin()
        before, after = dict(hub.files()), dict(theirs.files())
    except UsageError:  # of a closed one, the branch may be gone
        return False
    ours = {offer.goal: offer for offer in taken}
    others = (before.keys() | after.keys()) - ours.keys() - {BY_THE_HUB}
    return all(path in after and offer.is_stated(after[path]) for path, offer in ours.items()) and all(
        before.get(path) == after.get(path) for path in others
    )
