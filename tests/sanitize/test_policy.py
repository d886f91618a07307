"""A policy from options, a file or the project; what means nothing is told before a file is looked at."""

from pathlib import Path

import pytest

from tests.sanitize.sanitizing import embedding, evil, files_in, sanitize, write


@pytest.fixture
def up(tmp_path: Path) -> Path:
    return write(tmp_path / "up", {"evil.pt": evil()})


@pytest.mark.parametrize(
    "text",
    [
        'dangerous = "quarantine"',
        '[tool.ckptool.sanitize]\ndangerous = "quarantine"',
        'dangerous="quarantine"\nmax-size="1GB"',
    ],
)
def test_a_policy_is_read_from_a_file(text: str, up: Path, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text)
    assert sanitize(up, tmp_path / "out", "--policy", tmp_path / "p.toml").actions == {"evil.pt": "quarantined"}


def test_an_option_wins_over_the_file(up: Path, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('dangerous = "quarantine"')
    done = sanitize(up, tmp_path / "out", "--policy", tmp_path / "p.toml", "--dangerous", "refuse")
    assert done.actions == {"evil.pt": "refused"}


def test_the_project_in_the_current_folder_has_a_policy(
    up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write(tmp_path / "project", {}) if (tmp_path / "project").mkdir() is None else tmp_path)
    Path("pyproject.toml").write_text('[project]\nname = "x"\n[tool.ckptool.sanitize]\ndangerous = "refuse"\n')
    assert sanitize(up, tmp_path / "out").actions == {"evil.pt": "refused"}
    Path("pyproject.toml").write_text('[project]\nname = "x"\n')
    assert sanitize(up, tmp_path / "out").actions == {"evil.pt": "released"}


@pytest.mark.parametrize(
    "text",
    [
        'dangerus = "refuse"',
        'dangerous = "no"',
        "dangerous = true",
        'dangerous = "refuse"\n"max_size" = 1\n"max-size" = 2',
        "threshold = -1",
        "threshold = nan",
        "threshold = true",
        "timeout = 0",
        "timeout = 1.5",
        'max-size = "big"',
        "max-size = 1.5",
        'kinds = "lora"',
        'kinds = ["lorra"]',
        'bases = ["sd9"]',
        'harmless = ["os.system"]',
        'harmless = ["State"]',
        "not toml",
        "[tool.ckptool]\nsanitize = 1",
        "\xff",
    ],
)
def test_what_means_nothing_is_a_usage_error(text: str, up: Path, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_bytes(text.encode("latin-1"))
    done = sanitize(up, tmp_path / "out", "--policy", tmp_path / "p.toml")
    assert (done.ran.code, done.ran.out) == (2, "")
    assert [line.split(":")[0] for line in done.ran.err.splitlines()] == ["error", "hint"]
    assert not (tmp_path / "out").exists()


def test_a_policy_that_is_not_there_is_a_usage_error(up: Path, tmp_path: Path) -> None:
    assert sanitize(up, tmp_path / "out", "--policy", tmp_path / "none.toml").ran.code == 2


def test_limits_do_not_make_another_output_but_a_policy_does(tmp_path: Path) -> None:
    up, out = write(tmp_path / "up", {"a.pt": embedding()}), tmp_path / "out"
    assert sanitize(up, out).actions == {"a.pt": "released"}
    assert sanitize(up, out, "--timeout", 900, "--max-memory", "2GB").actions == {"a.pt": "skipped"}
    assert sanitize(up, out, "--dtype", "bf16").actions == {"a.pt": "released"}
    assert sanitize(up, out, "--dtype", "bf16", "--force").actions == {"a.pt": "released"}
    assert len(files_in(out)) == 3
