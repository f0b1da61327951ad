"""The built-in browser: its pages, its ranking and its displays, without MCP."""

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import pytest

from shared.web_search import SearchOptions, read_display
from tool_runner.builtin.browser import SHIPPED
from tool_runner.builtin.browsing import Browser, BrowserView, Refused, Visited, lines_of
from tool_runner.builtin.page_search import BadPages, PageIndex, WebPage, load_pages, read_page

INDEX = PageIndex(load_pages(SHIPPED))
BYTES_MAX = 2**20


class Reading:
    """Calls one after the other, each with the state that the one before left."""

    def __init__(self, index: PageIndex = INDEX, options: SearchOptions | None = None) -> None:
        self.index, self.options, self.state = index, options or SearchOptions(), ""

    @property
    def browser(self) -> Browser:
        return Browser(self.index, Visited.read(self.state), self.options)

    def keep(self, view: BrowserView) -> BrowserView:
        self.state = self.browser.visited.after(view.shown, BYTES_MAX).write()
        return view

    def search(self, query: str, topn: int = 10) -> BrowserView:
        return self.keep(self.browser.search(query, topn, None))

    def open(self, id_: int | str = -1, cursor: int = -1, loc: int = -1, num_lines: int = -1) -> BrowserView:
        return self.keep(self.browser.open(id_, cursor, loc, num_lines, None, as_source=False))

    def find(self, pattern: str, cursor: int = -1) -> BrowserView:
        return self.keep(self.browser.find(pattern, cursor))


def test_the_shipped_pages_are_a_few_dozen_with_addresses_that_belong_to_nobody() -> None:
    pages = load_pages(SHIPPED)
    assert 24 <= len(pages) <= 60
    assert {page.domain for page in pages} == {"antiphon.example"}
    known = {page.url for page in pages}
    assert [link for page in pages for link in page.links if link not in known] == []


def test_a_search_an_opened_page_and_a_match_are_shown_as_the_model_was_trained_to_read_them() -> None:
    reading = Reading()
    found = reading.search("fencing token of a lease").text.split("\n")
    assert found[0] == "[0] fencing token of a lease"
    assert found[1].startswith("**viewing lines [0 - ")
    assert found[2:7] == ["", "L0: ", "L1: URL: ", "L2: # Search Results", "L3: "]
    assert found[7].startswith("L4:   * 【0†Leases and fencing tokens†antiphon.example】 ")
    opened = reading.open(0).text.split("\n")
    assert opened[0] == "[1] Leases and fencing tokens (https://antiphon.example/leases)"
    assert opened[2:5] == ["", "L0: ", "L1: URL: https://antiphon.example/leases"]
    matched = reading.find("SWEEPER").text.split("\n")
    assert matched[0] == (
        "[2] Find results for text: `SWEEPER` in `Leases and fencing tokens` "
        "(https://antiphon.example/leases)"
    )
    place = next(n for n, line in enumerate(lines_of(INDEX.find_url(LEASES) or EMPTY)) if "sweeper" in line)
    assert f"L1: # 【0†match at L{place}】" in matched


LEASES = "https://antiphon.example/leases"
EMPTY = WebPage("", "", "", "", ())


def test_a_result_says_of_each_page_where_it_is_listed() -> None:
    view = Reading().search("fencing token", topn=3)
    display = read_display(view.structured)
    assert display is not None
    assert (display.cursor, display.url, len(display.sources)) == (0, None, 3)
    lines = view.text.split("\n")
    for number, source in enumerate(display.sources):
        assert source.lines is not None
        first = next(line for line in lines if line.startswith(f"L{source.lines[0]}: "))
        assert f"【{number}†" in first
        assert source == display.at(source.lines[1])
    assert display.at(0) is None


def test_pages_that_answer_equally_well_stand_in_their_own_order_in_every_process() -> None:
    """Whatever the order of a set is there."""
    words = ("red", "green", "blue", "black")

    def make_page(number: int, counts: Sequence[int]) -> WebPage:
        text = "".join(f"{word} " * count for word, count in zip(words, counts, strict=True))
        return WebPage(f"https://a.example/{number}", "Colours", text, text, ())

    pages = [make_page(number, counts) for number, counts in enumerate(permutations((1, 2, 3, 4)))]
    found = PageIndex(pages).search(" ".join(words), len(pages), lambda _: True)
    assert [each.page for each in found] == pages


@pytest.mark.parametrize("function", ["open", "find"])
def test_a_page_is_cited_by_its_address_also_where_it_was_searched(function: str) -> None:
    reading = Reading()
    view = reading.open(LEASES)
    if function == "find":
        view = reading.find("token")
    display = read_display(view.structured)
    assert display is not None
    source = display.at(3)
    assert source is not None
    assert (source.url, source.title) == (LEASES, "Leases and fencing tokens")


def test_links_are_followed_from_results_pages_and_matches_of_any_cursor() -> None:
    reading = Reading()
    reading.search("leases fencing")
    first = reading.open(0)
    assert "【0†log】" in first.text
    assert reading.open(0).structured["url"] == "https://antiphon.example/log"
    assert reading.open("0", cursor=1).structured["url"] == "https://antiphon.example/log"
    assert reading.open(1, cursor=1).structured["url"] == "https://antiphon.example/takeover"
    reading.find("byte", cursor=2)
    assert reading.open(0).structured["url"] == "https://antiphon.example/log"
    assert reading.browser.visited.next == 7


def test_a_long_page_is_read_in_views_and_a_link_opens_it_at_the_passage() -> None:
    reading = Reading()
    first = reading.open("https://antiphon.example/day")
    end = int(first.text.split(" - ")[1].split("]")[0])
    assert "perseverance" not in first.text
    second = reading.open(loc=end + 1)
    assert second.text.split("\n")[3].startswith(f"L{end + 1}: ")
    assert "perseverance" in second.text
    reading.search("perseverance word of the day")
    assert "perseverance" in reading.open(0).text
    assert reading.open(loc=7, num_lines=2).text.split("\n")[3:] == first.text.split("\n")[10:12]


def test_a_source_is_shown_as_it_was_written() -> None:
    view = Reading().browser.open(LEASES, -1, -1, -1, "web", as_source=True)
    assert "[log](https://antiphon.example/log)" in view.text


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda r: r.open(), "No page has been opened yet"),
        (lambda r: r.search("  "), "A query has 1 to"),
        (lambda r: r.open("https://elsewhere.example/"), "There is no page 'https://elsewhere.example/'"),
        (lambda r: (r.search("lease"), r.open()), "give the `id` of a link"),
        (lambda r: (r.search("lease"), r.open(99)), "There is no link 99"),
        (lambda r: (r.search("lease"), r.open(0, cursor=5)), "There is no cursor 5. Cursors: 0 to 0."),
        (lambda r: (r.search("lease"), r.find("lease")), "`find` needs an opened page"),
        (lambda r: (r.open(LEASES), r.open(loc=999)), "There is no line 999"),
        (lambda r: (r.open(LEASES), r.find(" ")), "A pattern has 1 to"),
        (lambda r: r.browser.search("q", 1, "news"), "There is only the source `web`."),
    ],
)
def test_a_call_that_cannot_be_answered_says_why(call: object, said: str) -> None:
    assert callable(call)
    with pytest.raises(Refused, match=said.replace("(", r"\(")):
        call(Reading())


def test_nothing_found_is_said_and_a_pattern_without_a_match_too() -> None:
    reading = Reading()
    assert "Nothing was found." in reading.search("xyzzyplugh").text
    reading.open(LEASES)
    assert "No `find` results for pattern: `xyzzy`" in reading.find("xyzzy").text


def test_only_allowed_domains_are_found_and_opened() -> None:
    pages = [
        read_page("# Ours\nurl: https://sub.allowed.example/a\n\nalpha", "a"),
        read_page("# Theirs\nurl: https://notallowed.example/b\n\nalpha", "b"),
    ]
    reading = Reading(PageIndex(pages), SearchOptions(allowed_domains=("allowed.example",)))
    assert [s["title"] for s in reading.search("alpha").structured["sources"]] == ["Ours"]
    with pytest.raises(Refused, match="There is no page"):
        reading.open("https://notallowed.example/b")


def test_the_size_of_the_context_decides_how_much_one_display_shows() -> None:
    sizes = {}
    for size in ("low", "medium", "high"):
        reading = Reading(options=SearchOptions.read({"search_context_size": size}))
        sizes[size] = len(reading.open("https://antiphon.example/day").text)
    assert sizes["low"] < sizes["medium"] < sizes["high"]


def test_what_is_kept_is_bounded_and_cursors_go_on() -> None:
    reading, visited = Reading(), Visited()
    for _ in range(50):
        view = Browser(INDEX, visited).search("lease", 10, None)
        visited = visited.after(view.shown, 2_000)
        assert len(visited.write()) <= 2_000
    assert visited.next == 50
    reading.state = visited.write()
    with pytest.raises(Refused, match="There is no cursor 0"):
        reading.open(0, cursor=0)
    assert reading.search("lease").text.startswith("[50] ")


@pytest.mark.parametrize("state", [None, 7, "", "{", "[]", '{"displays": 1}'])
def test_a_state_that_cannot_be_read_begins_anew(state: object) -> None:
    assert Visited.read(state) == Visited()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("Title\nurl: https://a.example/\n", "the first line must be"),
        ("# Title\n\ntext", "the second line must be"),
        ("# Title\nurl: nowhere\n", "the second line must be"),
    ],
)
def test_a_page_without_a_title_or_an_address_is_refused_by_name(
    tmp_path: Path, content: str, fault: str
) -> None:
    (tmp_path / "odd.md").write_text(content)
    with pytest.raises(BadPages, match=rf"odd\.md: {fault}"):
        load_pages(tmp_path)


def test_two_pages_of_one_address_and_a_folder_without_pages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadPages, match="has no pages"):
        load_pages(tmp_path)
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text("# T\nurl: https://a.example/\n")
    with pytest.raises(BadPages, match="another page has the address"):
        load_pages(tmp_path)


def test_a_page_cannot_forge_a_link_or_a_citation() -> None:
    page = read_page("# A【1†x】\nurl: https://a.example/\n\nSee 【3†L4】.", "a")
    assert "【" not in page.title + page.text
    assert "†" not in page.title + page.text
