"""What the settings allow one request, as `bodies` needs to know it. Pure."""

from api.bodies.requests import RequestLimits
from api.bodies.tools import ApprovalDefaults
from shared.compaction import DEFAULT_PROMPT
from shared.responses import CompactionRules
from shared.settings import Settings

_THRESHOLD_SHARE = 0.75
"""The part of the model's context beyond which it is compacted, if the request names no threshold."""


def limits_of(settings: Settings) -> RequestLimits:
    return RequestLimits(
        settings.items_max,
        settings.tools_max,
        settings.json_values_max,
        settings.refused_parameters,
        ApprovalDefaults(settings.approval_default, settings.approval_default_for_urls),
        settings.unsupported_tools,
        settings.web_search != "refused",
        CompactionRules(
            settings.compaction_prompt or DEFAULT_PROMPT,
            settings.compaction_share_max,
            settings.compaction_tokens_min,
            int(settings.context_tokens_max * _THRESHOLD_SHARE),
            growth_share=settings.compaction_share_max,
            answer_tokens=settings.answer_tokens_reserved,
        ),
    )
