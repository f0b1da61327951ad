import msgspec

from shared.responses import McpTool
from shared.tool_calls import ToolsListed
from tool_runner.listing_cache import ListingCache

LISTED = ToolsListed((McpTool("ask", {"type": "object"}),))
OTHER = ToolsListed((McpTool("say", {"type": "object"}),))
SIZE = len(msgspec.json.encode(LISTED))


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def make(bytes_max: int = 10**6, ttl_s: float = 60.0) -> tuple[ListingCache, Clock]:
    clock = Clock()
    return ListingCache(ttl_s, bytes_max, clock), clock


def test_a_listing_is_kept_for_its_time_from_when_it_was_asked_for() -> None:
    cache, clock = make()
    cache.put("server", "", LISTED, asked_s=90.0)
    clock.now_s = 149.9
    assert cache.get("server", "") == LISTED
    clock.now_s = 150.0
    assert cache.get("server", "") is None
    assert cache.size_bytes == 0


def test_a_tenant_gets_only_what_was_listed_for_it() -> None:
    cache, _ = make()
    cache.put("server", "one", LISTED, 100.0)
    assert cache.get("server", "other") is None
    assert cache.get("server", "") is None
    cache.put("server", "other", OTHER, 100.0)
    assert (cache.get("server", "one"), cache.get("server", "other")) == (LISTED, OTHER)


def test_a_change_drops_the_servers_listings_of_all_tenants_and_no_other() -> None:
    cache, _ = make()
    for tenant in ("one", "other"):
        cache.put("server", tenant, LISTED, 100.0)
    cache.put("another", "one", LISTED, 100.0)
    cache.drop("server")
    assert cache.get("server", "one") is cache.get("server", "other") is None
    assert cache.get("another", "one") == LISTED


def test_a_listing_that_was_under_way_when_the_tools_changed_is_not_kept() -> None:
    cache, clock = make()
    cache.drop("server")
    cache.put("server", "", LISTED, asked_s=99.0)
    assert cache.get("server", "") is None
    clock.now_s = 101.0
    cache.put("server", "", LISTED, asked_s=101.0)
    assert cache.get("server", "") == LISTED


def test_the_least_recently_used_make_room() -> None:
    cache, _ = make(bytes_max=2 * SIZE)
    for server in ("a", "b"):
        cache.put(server, "", LISTED, 100.0)
    assert cache.get("a", "") == LISTED
    cache.put("c", "", LISTED, 100.0)
    assert [cache.get(server, "") for server in "abc"] == [LISTED, None, LISTED]
    assert cache.size_bytes == 2 * SIZE
    cache.put("large", "", ToolsListed(LISTED.tools * 3), 100.0)
    assert cache.get("large", "") is None
    assert cache.size_bytes == 0


def test_without_a_time_nothing_is_kept() -> None:
    cache, _ = make(ttl_s=0.0)
    cache.put("server", "", LISTED, 100.0)
    assert cache.get("server", "") is None
