"""Every snippet of docs/clients.md runs as it stands there, and prints what stands below it."""

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.scenarios import CHAT_PYTHON, NODE, PYTHON, isolated
from tests.running import ROOT, RunningCluster

PAGE = (ROOT / "docs" / "clients.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"
_BLOCK = re.compile(
    r"^(?:## (?P<heading>[^\n]+)|```(?P<language>\w+)\n(?P<text>.*?)^```)$", re.MULTILINE | re.DOTALL
)
_CHAT_CLIENTS = re.compile(
    r"^(?:from|import) (?:dspy|instructor|litellm|llama_index|smolagents)\b", re.MULTILINE
)
_TIMEOUT_S = 100.0


@dataclass(frozen=True, slots=True)
class Snippet:
    name: str
    language: str
    code: str
    printed: str
    config: str
    """What stands before it as a file."""


def snippets() -> list[Snippet]:
    found: list[Snippet] = []
    heading = code = language = config = ""
    for block in _BLOCK.finditer(PAGE):
        match block["language"]:
            case None:
                assert not code, f"{heading}: what does the last snippet print?"
                heading, config = block["heading"], ""
            case "toml":
                config = block["text"]
            case "text":
                name = f"{heading}, {sum(each.name.startswith(heading) for each in found) + 1}"
                found.append(Snippet(name, language, code, block["text"], config))
                code = ""
            case _:
                assert not code, f"{heading}: what does the snippet before print?"
                language, code = block["language"], block["text"]
    return found


SNIPPETS = snippets()


def command_of(snippet: Snippet) -> tuple[list[str], Path]:
    """Returns what runs the code that it reads, and where."""
    match snippet.language:
        case "python":
            return [str(CHAT_PYTHON if _CHAT_CLIENTS.search(snippet.code) else PYTHON), "-"], ROOT
        case "js":
            return ["node", "--input-type=module", "-"], NODE
        case language:
            assert language == "sh"
            return ["bash", "-euo", "pipefail"], NODE


def test_the_page_has_every_client() -> None:
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert len(headings) > 12
    assert {snippet.name.rpartition(",")[0] for snippet in SNIPPETS} == set(headings)


Done = subprocess.CompletedProcess[str]


def run(snippet: Snippet, address: str, home: Path) -> Done:
    if snippet.config:
        (home / ".codex").mkdir()
        (home / ".codex" / "config.toml").write_text(snippet.config.replace(ADDRESS, address))
    command, folder = command_of(snippet)
    environment = isolated(home)
    environment["PATH"] = f"{NODE / 'node_modules' / '.bin'}:{environment['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        input=snippet.code.replace(ADDRESS, address),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def runs(
    cluster: RunningCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, "Future[Done]"]]:
    """Runs all snippets, two at a time: most of what they do is to import their client."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {
            snippet.name: pool.submit(run, snippet, cluster.urls[0], tmp_path_factory.mktemp("home"))
            for snippet in SNIPPETS
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.name)
def test_a_snippet_prints_what_stands_below_it(snippet: Snippet, runs: dict[str, "Future[Done]"]) -> None:
    done = runs[snippet.name].result()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == snippet.printed.strip(), done.stderr
