"""Makes a server's tool names and errors safe for a prompt.

Pure. A server chooses names, descriptions and schemas; none of them may end a header or begin a section of
the developer message. `worker/harmony` writes descriptions and schemas as comments and types. Clients still
see the server's own text (docs/adr/0025-names-of-tools.md).
"""

import hashlib
import re

_CALLABLE = re.compile(r"[A-Za-z0-9_./-]{1,64}")
_OTHER = re.compile(r"[^A-Za-z0-9_-]+")
_WORDS_LENGTH_MAX = 40


def callable_name(name: str) -> str:
    """Returns the name by which the model calls a tool: the server's own, or a stable alias for it.

    A name becomes part of a Harmony recipient, where spaces, line breaks and markers have a meaning of their
    own.
    """
    if _CALLABLE.fullmatch(name):
        return name
    words = _OTHER.sub("_", name[: 4 * _WORDS_LENGTH_MAX])[:_WORDS_LENGTH_MAX].strip("_") or "tool"
    return f"{words}_{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"


def one_line(text: str) -> str:
    return " ".join(text.splitlines()) if text else text
