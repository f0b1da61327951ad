"""An API node is killed under its clients: they resume on another one, and none of them loses an event.

The small form of `make bench ARGS=node-killed`, which measures what that costs.
"""

import pytest

from bench import node_killed
from bench.node_killed import Crowd

pytestmark = pytest.mark.slow


async def test_the_clients_of_a_killed_node_resume_on_another_one_with_every_event_once() -> None:
    """Foreground responses, each read by one client."""
    crowd = Crowd(live=20, quiet=60, witnesses=4, window_s=0.5, live_s=8.0)
    found = await node_killed.run(crowd)
    assert len(found.away_s) >= crowd.quiet, "they lost their node"
    assert [stretch.name for stretch in found.stretches] == ["before", "while they come back", "afterwards"]
