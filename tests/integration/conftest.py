"""Servers that several modules lose or replace: each module has its own."""

from collections.abc import Iterator

import pytest

from tests.failover import WatchedValkeys


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedValkeys]:
    with WatchedValkeys(tmp_path_factory.mktemp("watched")) as valkeys:
        yield valkeys


@pytest.fixture
def valkeys(watched: WatchedValkeys) -> WatchedValkeys:
    """The primary can be lost or replaced, whatever an earlier test has done to it."""
    watched.wait_until_watched()
    return watched
