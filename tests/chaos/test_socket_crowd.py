"""The short form of `make sockets`."""

from pathlib import Path

import pytest

from tests.socket_crowd import lose_a_node, start

SOCKETS = 40


@pytest.mark.chaos
async def test_the_clients_of_a_killed_nodes_sockets_lose_nothing_and_get_nothing_twice(
    tmp_path: Path,
) -> None:
    cluster = start(tmp_path / "data")
    try:
        found = await lose_a_node(cluster, SOCKETS)
    finally:
        cluster.stop()
    assert found.cut_messages > 2 * SOCKETS, "they were cut in the middle"
    assert found.rest_messages > SOCKETS
