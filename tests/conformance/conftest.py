"""Fixtures of the conformance tests: OpenAI's client at each node of the shared cluster."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.running import RunningCluster


@pytest.fixture
def nodes(cluster: RunningCluster) -> Iterator[list[OpenAI]]:
    """Yields a client for each API node."""
    clients = [OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) for url in cluster.urls]
    yield clients
    for client in clients:
        client.close()
