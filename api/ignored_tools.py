"""Names the tools of a request that were left out (`unsupported_tools`), in a header of its answer."""

from collections.abc import Sequence


def ignored_header(kinds: Sequence[str]) -> dict[str, str]:
    """Returns the header with the types of these tools, if there are any."""
    return {"antiphon-ignored-tools": ", ".join(kinds)} if kinds else {}
