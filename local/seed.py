"""The request that Antiphon started from: a streamed multiplication with the trained Python tool.

Owns the request and its `curl` command; sends nothing.
"""

import json

REQUEST: dict[str, object] = {
    "model": "default",
    "input": "Multiply 123*456 using the mcp.code_interpreter tool.",
    "tools": [
        {
            "type": "mcp",
            "server_label": "code_interpreter",
            "headers": {"test": "test"},
            "server_url": "IGNORED",
        }
    ],
    "stream": True,
    "enable_response_messages": True,
}

ANSWER = "56,088"
"""What the final text must contain; it can only come from the tool's result."""


def make_curl(base_url: str) -> str:
    """Returns the request as a shell command. `base_url`: without a path."""
    return (
        f'curl -N -X POST "{base_url}/v1/responses" -H "Content-Type: application/json" '
        f"-H \"Authorization: Bearer dummy-api-key\" -d '{json.dumps(REQUEST, indent=2)}'"
    )
