"""Checks the members of a `web_search` tool, and completes what is echoed of it. Pure.

Owns which members have an effect here; `shared/web_search.py` reads them. Source: the public OpenAI types,
`WebSearchTool` and `WebSearchPreviewTool`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from api.bodies.client_tools import ToolShape
from api.bodies.validation import Checked, ClosedShape, Path, spell
from api.errors import unsupported_parameter

_DOMAINS_MAX = 100
_Domain = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]
_PlaceName = Annotated[str, Field(max_length=256, pattern=r"^[^\x00-\x1f\x7f<>|]*$")]
"""A part of a location, which the model reads in its system message."""


class _Filters(ClosedShape):
    allowed_domains: Annotated[Checked[_Domain], Field(max_length=_DOMAINS_MAX)] | None = None


class _UserLocation(ClosedShape):
    type: Literal["approximate"]
    city: _PlaceName | None = None
    country: _PlaceName | None = None
    region: _PlaceName | None = None
    timezone: _PlaceName | None = None


class WebSearch(ToolShape):
    search_context_size: Literal["low", "medium", "high"] | None = None
    user_location: _UserLocation | None = None
    filters: _Filters | None = None
    external_web_access: bool | None = None
    search_content_types: Checked[Literal["text", "image"]] | None = None


def check_web_search(tool: Mapping[str, Any], path: Path) -> None:
    """Raises ClientError for what cannot be searched. `tool`: of the shape WebSearch."""
    if "image" in (tool.get("search_content_types") or ()):
        reason = "GPT-OSS reads text only, so only `text` is searched."
        raise unsupported_parameter(spell((*path, "search_content_types")), reason)


def echo_web_search(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tool with the defaults that the hosted API echoes, except for a location nobody gave."""
    location = tool.get("user_location")
    whole = dict.fromkeys(("city", "country", "region", "timezone"))
    return {
        **tool,
        "search_context_size": tool.get("search_context_size") or "medium",
        "user_location": None if location is None else {"type": "approximate", **whole, **location},
        "filters": tool.get("filters"),
    }
