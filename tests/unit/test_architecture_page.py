"""On `docs/architecture.md`, keys are those of `shared/store/keys.py`, and a token's way is the code's."""

import hashlib
import inspect
import re
from pathlib import Path

from shared.store import keys
from shared.store.keys import ConversationKey, ResponseKey

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text("utf-8")
WALK = PAGE.partition("\n### One token, file by file\n")[2].partition("\n\nBefore ")[0]
SECTION = PAGE.partition("\n## Keys\n")[2].partition("\n## ")[0]
ARGUMENTS = {
    "tenant": "TENANT",
    "token": "ATTEMPT",
    "role": "ROLE",
    "digest": "digest",
    "runner": "RUNNER",
    "owner": "WORKER",
    "worker": "WORKER",
    "sender": "SENDER",
    "webhook": "NAME",
    "name": "…",
    "queue": "antiphon:{queue}:…",
    "flow": "TENANT/TIER",
    "model": "MODEL",
    "idempotency_key": "KEY",
    "approval_request_id": "KEY",
}
"""As the page writes them."""
KEYS = {"ResponseKey": ResponseKey("tenant", "id"), "ConversationKey": ConversationKey("tenant", "conv")}
DIGEST = hashlib.sha256(b"KEY").hexdigest()


def names_of_the_module() -> set[str]:
    constants = {value for value in vars(keys).values() if isinstance(value, str)}
    functions = [
        made
        for made in vars(keys).values()
        if inspect.isfunction(made) and made.__module__ == keys.__name__ and made is not keys.takers
    ]
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        values = [KEYS.get(each.annotation.__name__, ARGUMENTS.get(each.name)) for each in parameters]
        constants.add(function(*values))
    names = {name.replace(f"TENANT/{DIGEST}", "tenant/digest") for name in constants}
    return {name for name in names if name.startswith("antiphon:") and "%s" not in name}


def names_on_the_page() -> set[str]:
    """`antiphon:{a}:b`, `:c` names two keys."""
    names, first = set[str](), ""
    for written in re.findall(r"`((?:antiphon)?:[^`]+)`", SECTION):
        if written.startswith("antiphon"):
            first = re.match(r"antiphon:\{[^}]*\}|", written)[0]  # type: ignore[index]
        names.add(written if written.startswith("antiphon") else first + written)
    return names


def test_every_key_is_on_the_page_and_every_key_of_the_page_is_used() -> None:
    arqs_own = {"antiphon:{queue}:…:health-check"}
    assert names_on_the_page() - arqs_own == names_of_the_module()


def test_every_function_of_the_tokens_walk_is_in_a_file_of_its_row() -> None:
    rows = [row.strip("|").split("|") for row in WALK.splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 10
    for _, functions, files in rows:
        texts = [(ROOT / path).read_text("utf-8") for path in re.findall(r"`([^`]+)`", files)]
        for name in re.findall(r"`([^`]+)`", functions):
            for part in name.split("."):
                assert any(
                    re.search(rf"^ *(?:async )?(?:def|class) {part}\b", text, re.M) for text in texts
                ), name
