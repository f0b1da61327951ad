"""What the roles of one local cluster are: commands, settings, logs, and the order in which they end.

Plans only; starts nothing.
"""

import base64
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local.ports import HOST
from local.supervisor import Role

STOP_ORDER = (("api",), ("worker", "tool_runner"), ("valkey",))
"""What takes new work ends first, what holds the log last."""

_PACKAGES = (
    *("redis", "arq", "pydantic_settings", "msgspec"),
    *("fastapi", "uvicorn", "sse_starlette"),
    "openai_harmony",
    *("mcp", "pydantic_monty"),
)


class DependencyMissing(Exception):
    """A package that a role imports is not installed for this Python."""


@dataclass(frozen=True, slots=True)
class Site:
    """What all roles of a cluster share: the folder that they start in, the environment, the logs' folder."""

    root: Path
    environment: Mapping[str, str]
    logs: Path

    def plan(self, kind: str, number: int, command: Sequence[str], port: int | None = None) -> Role:
        log = self.logs / f"{kind}-{number}.log"
        return Role(kind, number, tuple(command), self.root, self.environment, log, port)

    def plan_api(self, number: int, port: int) -> Role:
        command = (sys.executable, "-m", "api", "--host", HOST, "--port", str(port))
        return self.plan("api", number, command, port)

    def plan_module(self, kind: str, number: int) -> Role:
        return self.plan(kind, number, (sys.executable, "-m", kind))


def check_dependencies(engine: str) -> None:
    """Raises DependencyMissing, naming every missing package and the way to get it."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyMissing(
            f"{sys.executable} lacks {', '.join(missing)}; "
            "run `make env`, then `make up` or `.venv/bin/python -m local up`"
        )
    if engine == "vllm" and not (Path(__file__).parent.parent / "worker/engines/vllm.py").is_file():
        raise DependencyMissing("the engine vllm is not part of this release; use --engine scripted")


def make_environment(user: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """What the roles see: the user's variables, over them `settings`, beneath them the local defaults."""
    environment = {"ANTIPHON_ENGINE": "scripted", **user, "PYTHONUNBUFFERED": "1", **settings}
    environment.setdefault("ANTIPHON_SECRETS_KEY", base64.urlsafe_b64encode(os.urandom(32)).decode())
    if environment["ANTIPHON_ENGINE"] == "scripted":
        environment.setdefault("ANTIPHON_MODELS", '["default","scripted"]')
        environment.setdefault("ANTIPHON_CONTEXT_TOKENS_MAX", "1000000")  # it counts further than a model
    return environment
