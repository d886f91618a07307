"""Attack the readers at length: `make fuzz`, or python -m tests.fuzz.run --minutes 60.

Hypothesis takes its rules in turn, then atheris, where it is installed, the pickle machine, the zip reader and the
safetensors header. Exit code 1 when a rule was broken; every failure is shown with an input that breaks it.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROUND = 2
"""Times as many examples in each turn as in the test suite."""
SHARE = 0.5
"""Of the time for hypothesis, where atheris takes the rest."""
MEMORY = 8 << 30
"""Bytes by which the process with torch in it may grow."""
TARGETS = ("machine", "archive", "header")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description="Attack the readers at length.")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long in all (default: 30)")
    parser.add_argument("--keep", type=Path, help="folder for inputs that break a rule (default: a temporary one)")
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="ckptool-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    guided = importlib.util.find_spec("atheris") is not None
    if not guided:
        say("atheris is not installed (it has no wheel for this Python): hypothesis alone")
    broken = with_hypothesis(seconds * (SHARE if guided else 1))
    for name in TARGETS if guided else ():
        broken += with_atheris(name, folder / name, int(seconds * (1 - SHARE) / len(TARGETS)))
    say(f"{broken} rules broken" if broken else "no rule was broken")
    return 1 if broken else 0


def with_hypothesis(seconds: float) -> int:
    """Run every rule again and again until the time is over; one that is broken is left out. How many were."""
    os.environ["CKPTOOL_FUZZ_EXAMPLES"] = str(ROUND)
    from tests.fuzz.guard import install, limit_memory
    from tests.fuzz.properties import PROPERTIES, Property

    install()
    limit_memory(MEMORY)
    end = time.monotonic() + seconds
    rules: list[Property] = list(PROPERTIES)
    turns = dict.fromkeys(rules, 0)
    while rules and time.monotonic() < end:
        for rule in tuple(rules):
            if time.monotonic() >= end:
                break
            turns[rule] += 1
            try:
                rule()
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                rules.remove(rule)
                say(f"BROKEN: {rule.__name__}")
                traceback.print_exception(error)
    for rule, count in turns.items():
        say(f"hypothesis: {count:4} turns of {rule.__name__}{'' if rule in rules else ': BROKEN'}")
    return len(PROPERTIES) - len(rules)


def with_atheris(name: str, folder: Path, seconds: int) -> int:
    """Attack one target in a process of its own. How many failures it found."""
    from tests.fuzz.seeds import write_seeds

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "corpus").exists():
        write_seeds(name, folder / "corpus")
    command = [sys.executable, "-m", "tests.fuzz.attack", name, str(folder), str(seconds)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, check=False, cwd=folder.parent, env=environment())
    for line in ended.stderr.decode(errors="replace").splitlines():
        if "number_of_executed_units" in line or "average_exec_per_sec" in line:
            say(f"atheris: {name}: {line.strip(' :').removeprefix('stat::')}")
    found = sorted((folder / "found").glob("*.txt"))
    for path in found:
        say(f"BROKEN: {path.with_suffix('')}\n{path.read_text()[:4000]}")
    if ended.returncode:
        say(f"BROKEN: the process of {name} ended with {ended.returncode}: {ended.stderr[-2000:].decode()}")
    return len(found) + (ended.returncode != 0)


def environment() -> dict[str, str]:
    """The root of the repository on the path, since libFuzzer leaves files where it runs."""
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
