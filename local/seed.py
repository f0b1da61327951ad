"""The request that Antiphon started from: a multiplication with the trained python tool, streamed.

Data and its `curl`; sends nothing.
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
"""What the final text must hold; it can only come out of the tool's result."""


def make_curl(base_url: str) -> str:
    """A command line for a shell; `base_url` without a path."""
    return (
        f'curl -N -X POST "{base_url}/v1/responses" -H "Content-Type: application/json" '
        f"-H \"Authorization: Bearer dummy-api-key\" -d '{json.dumps(REQUEST, indent=2)}'"
    )
