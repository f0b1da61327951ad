"""The documents are consistent: what they refer to exists."""

import re
from pathlib import Path

import pytest

from shared.settings import FORMER_NAMES, Settings
from shared.tenants_file import TenantLimits
from worker.engines.scripted.scene import Pace

ROOT = Path(__file__).parents[2]
SOURCES = ["api", "worker", "tool_runner", "webhooks", "shared", "local", "deploy", "tests"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
FILE = re.compile(
    r"`((?:api|worker|tool_runner|webhooks|shared|local|bench|tests|docs|deploy)/[\w./-]+\.(?:py|lua|toml|md|sh))`"
)
HISTORY = ("CHANGELOG.md", "docs/adr/")
"""Documents that describe files as they were."""
MENTION = re.compile(r"docs/[\w/-]+\.md")
SETTINGS = {
    *Settings.model_fields,
    *FORMER_NAMES,
    *TenantLimits.__struct_fields__,
    *Pace.__dataclass_fields__,
}
VARIABLES = {
    *(f"ANTIPHON_{name.upper()}" for name in SETTINGS),
    *re.findall(r"\$\{(ANTIPHON_[A-Z_]+)", (ROOT / "compose.yaml").read_text()),
}


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_documents_links_lead_somewhere(document: Path) -> None:
    for target, anchor in LINK.findall(document.read_text()):
        linked = (document.parent / target).resolve() if target else document
        assert linked.exists(), f"{document.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{document.name} links to {target}#{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_files_that_a_document_names_exist(document: Path) -> None:
    if str(document.relative_to(ROOT)).startswith(HISTORY):
        return
    assert sorted(name for name in FILE.findall(document.read_text()) if not (ROOT / name).exists()) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_settings_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text()
    variables = re.findall(r"ANTIPHON_[A-Z_]*[A-Z](?![A-Z_])", text)
    settings = re.findall(r"`([a-z][a-z_]*_(?:s|max))`", text)
    assert sorted(set(variables) - VARIABLES) == []
    assert sorted(set(settings) - SETTINGS) == []


def test_the_documents_that_the_code_names_exist() -> None:
    named = {
        mention
        for folder in SOURCES
        for suffix in ("py", "lua")
        for source in (ROOT / folder).rglob(f"*.{suffix}")
        for mention in MENTION.findall(source.read_text())
    }
    assert named
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs/adr/README.md").read_text()
    pages = sorted(page.name for page in (ROOT / "docs/adr").glob("0*.md"))
    assert pages == sorted(re.findall(r"\]\((0\d{3}-[\w-]+\.md)\)", index))
