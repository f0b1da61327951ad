"""Defines the roles of a local cluster: commands, settings, logs, and the order in which they end.

Owns the plan; starts nothing.
"""

import base64
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_urlsafe

from local.models import name_models
from local.ports import HOST
from local.supervisor import Role

STOP_ORDER = (("router",), ("api",), ("worker", "tool_runner", "webhooks"), ("valkey",))
"""The roles that accept work end first, the one that holds the log last."""

LOOPBACK = '["127.0.0.0/8","::1"]'
"""The networks that a `server_url` may reach besides the public internet: the developer's own machine."""

_PACKAGES = (
    *("redis", "arq", "pydantic_settings", "msgspec"),
    *("fastapi", "uvicorn", "sse_starlette"),
    "openai_harmony",
    *("mcp", "pydantic_monty"),
)


_READY_WITHIN_S = {"scripted": 60.0, "vllm": 1800.0}
"""Loading a model takes ten seconds, or many minutes if it is large and the disk is slow."""


class DependencyMissing(Exception):
    """A package that a role imports is not installed for this Python."""


@dataclass(frozen=True, slots=True)
class Site:
    """What all roles of a cluster share: the folder they start in, the environment, the logs' folder."""

    root: Path
    environment: Mapping[str, str]
    logs: Path

    def plan(self, kind: str, number: int, command: Sequence[str], port: int | None = None) -> Role:
        log = self.logs / f"{kind}-{number}.log"
        environment = {**self.environment, "ANTIPHON_PLACE": str(number)}
        return Role(kind, number, tuple(command), self.root, environment, log, port)

    def plan_api(self, number: int, port: int) -> Role:
        command = (sys.executable, "-m", "api", "--host", HOST, "--port", str(port))
        return self.plan("api", number, command, port)

    def plan_router(self, port: int) -> Role:
        command = (sys.executable, "-m", "api.cells", "--host", HOST, "--port", str(port))
        return self.plan("router", 0, command, port)

    def plan_module(self, kind: str, number: int) -> Role:
        return self.plan(kind, number, (sys.executable, "-m", kind))


def check_dependencies(engine: str, python_tool: str = "monty") -> None:
    """Raises DependencyMissing, naming what is missing and how to install it."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyMissing(
            f"{sys.executable} lacks {', '.join(missing)}; "
            "run `make env`, then `make up` or `.venv/bin/python -m local up`"
        )
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise DependencyMissing(
            f"{sys.executable} lacks vllm; `make up ENGINE=vllm` makes an environment that has it, .venv-vllm"
        )
    if python_tool == "cpython" and shutil.which("bwrap") is None:
        raise DependencyMissing(
            "bubblewrap is not installed (on Debian and Ubuntu: apt install bubblewrap), "
            "and the Python tool's CPython runs behind it"
        )


def make_environment(
    user: Mapping[str, str], settings: Mapping[str, str], seal_key: str | None = None
) -> dict[str, str]:
    """Returns the roles' environment: the local defaults, overridden by the user's variables, then by
    `settings`. `seal_key`: the one that seals what clients carry, unless the user has set others.

    Raises ValueError for engine arguments that cannot be parsed.
    """
    environment = {"ANTIPHON_ENGINE": "scripted", **user, "PYTHONUNBUFFERED": "1", **settings}
    environment.setdefault("ANTIPHON_SECRETS_KEY", base64.urlsafe_b64encode(os.urandom(32)).decode())
    if seal_key is not None:
        environment.setdefault("ANTIPHON_SEAL_KEYS", json.dumps([seal_key]))
    environment.setdefault("ANTIPHON_CONSOLE_KEY", token_urlsafe(24))
    environment.setdefault("ANTIPHON_EGRESS_NETWORKS", LOOPBACK)
    environment.setdefault("ANTIPHON_WEB_SEARCH", "local")
    if environment["ANTIPHON_ENGINE"] == "scripted":
        environment.setdefault("ANTIPHON_MODELS", '["default","scripted"]')
        environment.setdefault(
            "ANTIPHON_CONTEXT_TOKENS_MAX", "1000000"
        )  # its scripts count further than a model would
    else:
        models = name_models(environment.get("ANTIPHON_ENGINE_ARGS", ""))
        if models is not None:
            environment.setdefault("ANTIPHON_MODELS", json.dumps(models))
        # Seconds until vLLM's processes are killed; they have been signalled by then.
        environment.setdefault("VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS", "2")
    return environment


def has_webhooks(environment: Mapping[str, str]) -> bool:
    """Returns True if the tenants file registers a webhook. What is wrong with the file, the API reports."""
    path = environment.get("ANTIPHON_API_KEYS")
    if path is None:
        return False
    from shared.tenants_file import FileInvalid, read  # only now: the launcher needs nothing of the roles

    try:
        return bool(read(Path(path)).webhooks)
    except FileInvalid:
        return False


def ready_within_s(environment: Mapping[str, str]) -> float:
    """Returns how long roles with this environment may take to be ready."""
    return _READY_WITHIN_S.get(environment["ANTIPHON_ENGINE"], max(_READY_WITHIN_S.values()))
