"""What the texts promise: links that lead somewhere, no private places, a changelog that knows the version."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(
    "|".join(("/" + "work/(main|shared)", "/" + "tmp/venv", "/" + r"root/", "/" + r"home/[a-z]", "/" + r"Users/[A-Z]"))
)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def ours() -> list[Path]:
    """The files that are, or are about to be, part of the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(ROOT / name for name in names if name and (ROOT / name).is_file())


def pages() -> list[Path]:
    return sorted(
        [
            *ROOT.glob("*.md"),
            *(ROOT / "docs").rglob("*.md"),
            *(ROOT / "jobs").rglob("*.md"),
            *(ROOT / "analysis").rglob("*.md"),
        ]
    )


def anchors(page: Path) -> set[str]:
    """The fragments GitHub gives a page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead(page: Path) -> list[str]:
    """A page's relative links that lead nowhere."""
    lost = []
    for found in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        link = found[1] or found[2]
        if re.match(r"[a-z]+:", link):
            continue
        place, _, fragment = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (fragment and target.suffix == ".md" and fragment not in anchors(target)):
            lost.append(link)
    return lost


def test_no_file_names_somebodys_machine() -> None:
    named = []
    for path in ours():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        named += [f"{path.relative_to(ROOT)}: {found[0]}" for found in PRIVATE.finditer(text)]
    assert not named


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert not dead(page)


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading\n[a](gone.md) [b](page.md#a-heading) [c](#nowhere) [d](https://x.invalid)\n```\n[e](x)\n```\n"
    )
    assert dead(page) == ["gone.md", "#nowhere"]


def test_the_changelog_knows_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?{re.escape(project['version'])}\]?", changelog, re.MULTILINE)
    assert (ROOT / project["readme"]).is_file()
