"""The tiers that there are here, and what their turns cost."""

import pytest

from shared.lifecycle import fail
from shared.responses import ResponseError
from shared.service_tiers import turn_cost
from shared.settings import Settings
from shared.tenants_file import TenantLimits
from tests.requests import make_request


@pytest.mark.parametrize(
    ("asked", "served"),
    [("auto", "default"), ("default", "default"), ("flex", "flex"), ("priority", "priority")]
    + [(other, "default") for other in ("scale", "fast", "ultrafast")],
)
def test_the_last_event_names_the_tier_that_served(asked: str, served: str) -> None:
    response = make_request(service_tier=asked).response
    assert fail(response, ResponseError("server_error", "lost")).response.service_tier == served


def test_a_turn_costs_the_less_the_more_weight_a_tenant_has_and_never_nothing() -> None:
    assert turn_cost("priority", 1) < turn_cost("default", 1) < turn_cost("flex", 1)
    assert turn_cost("default", 2) == turn_cost("default", 1) // 2
    assert turn_cost("priority", 1e9) == 1
    assert TenantLimits(weight=2.5).over(Settings()).tenant_weight == 2.5
