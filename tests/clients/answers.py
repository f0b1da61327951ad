"""The clients' questions, and the scripts' answers."""


def counted(last: int) -> str:
    """Returns the answer to `Count from 1 to LAST`."""
    return ", ".join(str(number) for number in range(1, last + 1))


GREETING = "Hello! I am Antiphon's scripted engine"
WEATHER = "The weather in Oslo, as `get_weather` reports it: -31 degrees, snow in Oslo"
ADDED = "The tool `test.add` answered:\n\n5"
MULTIPLIED = [
    r"The product of \(123 \times 456\) is **56,088**.",
    r"The product of \(3 \times 4\) is **12**.",
]
"""The answers to `Multiply 123*456` and `Multiply 3*4`."""
REFUSED = "The tool `test.add` answered:\n\nThe user did not approve this call; it was not made."

CLIENT_TOOLS = [
    (
        "custom",
        r'Use edit with {"input": "SELECT \"é\""}',
        'The function `edit` answered:\n\nwrote SELECT "é"',
    ),
    (
        "shell",
        'Use shell with {"commands": ["ls", "pwd"]}',
        "The function `shell` answered:\n\nran ls\n[exit code 0]\nran pwd\n[exit code 0]",
    ),
    (
        "apply_patch",
        'Use apply_patch with {"type": "create_file", "path": "a", "diff": "+b"}',
        "The function `apply_patch` answered:\n\nThe patch was applied.\ncreate_file a +b",
    ),
]
"""Kinds of tools that a client runs itself: a question that has each called, and the answer."""

SEARCH = "Search for fencing tokens and find append"
LEASES = "https://antiphon.example/leases"
SEARCHED = (
    "The page *Leases and fencing tokens* answers this【1†L2-L3】. The places with “append” are listed, too"
    "【2†L1】; another page may help【0†L4】."
)
"""The answer to SEARCH; its three marks cite LEASES."""
ACTIONS = [
    {"type": "search", "query": "fencing tokens"},
    {"type": "open_page", "url": LEASES},
    {"type": "find_in_page", "url": LEASES, "pattern": "append"},
]
"""What is done for it."""

COMMENTS = {"Antiphon-Keep-Alive": "comment"}
"""Requests keep-alives that are comments; the awkward cluster's are events by default."""
SILENCE = "That was a silence."
SEPARATORS = "One line.\u2028The same line.\u2029Still the same."
TOO_LONG = "word " * 20_000
"""For the awkward cluster's context; short enough for an argument of a command."""
TOO_LONG_SAID = "Your input exceeds the context window of this model."
AWKWARD = [
    {"question": "Keep silent", "headers": {}, "stream": True},
    {"question": "Keep silent", "headers": COMMENTS, "stream": True},
    {"question": "Say separators", "headers": {}, "stream": True},
    {"question": "Say separators", "headers": {}, "stream": False},
]
"""Questions to the awkward cluster: silence, in which it keeps the stream alive, and characters that some
take for line ends to some."""
AWKWARD_ANSWERS = [SILENCE, SILENCE, SEPARATORS, SEPARATORS]
