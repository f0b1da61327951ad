"""Loads a folder of pages, and finds those that answer a query. Owns the form of the files and the ranking.

Pure, apart from reading the folder once; `browsing.py` owns what is shown of a page. A file is Markdown: its
first line is `# ` and the title, its second `url: ` and the address by which the page is opened and cited.
"""

import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_PAGES_MAX = 20_000
_PAGE_BYTES_MAX = 2**20
_FOLDER_BYTES_MAX = 64 * 2**20

_WORD = re.compile(r"\w+")
_LINK = re.compile(r"(?<!!)\[([^\[\]\n]{1,200})\]\((https?://[^()\s]{1,2000})\)")
_MARKS = str.maketrans("【】†", "[]+")
"""The characters of links and citations, which a page's own text must not contain."""
_SATURATION, _LENGTH_WEIGHT = 1.2, 0.75
"""The usual constants of the ranking (BM25)."""
_TITLE_WEIGHT = 3
_COMMON_WORDS = frozenset(
    {
        *("a", "an", "and", "are", "as", "at", "be", "by", "can", "do", "does", "for", "from", "how", "i"),
        *("in", "is", "it", "of", "on", "or", "that", "the", "this", "to", "was", "what", "when", "where"),
        *("which", "who", "why", "will", "with"),
    }
)
"""Words that say nothing about a page."""
_SUMMARY_CHARS = 240


class BadPages(Exception):
    """The folder cannot be used; the message names the file and the fault."""


@dataclass(frozen=True, slots=True)
class WebPage:
    """A page. `text`: with its links as the model reads them; `links`: the address of each, by its number."""

    url: str
    title: str
    source: str
    """The text as it is in the file."""
    text: str
    links: tuple[str, ...]

    @property
    def domain(self) -> str:
        return domain_of(self.url)


@dataclass(frozen=True, slots=True)
class Found:
    """A page that a search has found, with the passage that answers best."""

    page: WebPage
    summary: str


def domain_of(url: str) -> str:
    """Returns the host of an address in lower case; "" if it has none."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def load_pages(folder: Path) -> list[WebPage]:
    """Returns the pages in a folder and the folders within it, in the order of their paths.

    Raises BadPages.
    """
    files = sorted(folder.rglob("*.md"))
    if not files:
        raise BadPages(f"{folder} has no pages (*.md)")
    if len(files) > _PAGES_MAX:
        raise BadPages(f"{folder} has {len(files)} pages; at most {_PAGES_MAX}")
    pages: dict[str, WebPage] = {}
    size_bytes = 0
    for file in files:
        raw = file.read_bytes()
        size_bytes += len(raw)
        if len(raw) > _PAGE_BYTES_MAX or size_bytes > _FOLDER_BYTES_MAX:
            raise BadPages(
                f"{file}: a page takes at most {_PAGE_BYTES_MAX} bytes, all at most {_FOLDER_BYTES_MAX}"
            )
        page = read_page(raw.decode("utf-8", "replace"), str(file))
        if page.url in pages:
            raise BadPages(f"{file}: another page has the address {page.url}")
        pages[page.url] = page
    return list(pages.values())


def read_page(content: str, name: str) -> WebPage:
    """Returns the page in a file. `name`: what errors call it. Raises BadPages."""
    head, _, rest = content.replace("\r\n", "\n").partition("\n")
    address, _, text = rest.partition("\n")
    title, url = head.removeprefix("# ").strip(), address.removeprefix("url: ").strip()
    if not head.startswith("# ") or not title:
        raise BadPages(f"{name}: the first line must be `# ` and the title")
    if not address.startswith("url: ") or not domain_of(url) or " " in url or not url.isprintable():
        raise BadPages(f"{name}: the second line must be `url: ` and an address")
    plain = text.strip("\n").translate(_MARKS)
    shown, links = _number_links(plain, domain_of(url))
    return WebPage(url, title.translate(_MARKS), plain, shown, links)


def _number_links(text: str, own_domain: str) -> tuple[str, tuple[str, ...]]:
    """Returns the text with each Markdown link as `【number†text】`, and with its domain if it leaves."""
    links: list[str] = []

    def number(link: re.Match[str]) -> str:
        links.append(link[2])
        domain = domain_of(link[2])
        leaves = f"†{domain}" if domain != own_domain else ""
        return f"【{len(links) - 1}†{link[1]}{leaves}】"

    return _LINK.sub(number, text), tuple(links)


class PageIndex:
    """Ranks pages by the words that they share with a query (BM25); a word in a title counts more."""

    def __init__(self, pages: Sequence[WebPage]) -> None:
        self._pages = pages
        self._by_url = {page.url: page for page in pages}
        self._holders: Mapping[str, list[tuple[int, int]]] = defaultdict(list)
        """A word -> the pages that have it, and how often."""
        lengths = []
        for number, page in enumerate(pages):
            counts = Counter(words_of(page.source))
            lengths.append(counts.total())
            for word in words_of(page.title):
                counts[word] += _TITLE_WEIGHT
            for word, count in counts.items():
                self._holders[word].append((number, count))
        mean = sum(lengths) / len(lengths) or 1.0
        self._damping = [
            _SATURATION * (1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * length / mean) for length in lengths
        ]

    def find_url(self, url: str) -> WebPage | None:
        return self._by_url.get(url) or self._by_url.get(url.partition("#")[0])

    def search(self, query: str, count_max: int, admits: Callable[[WebPage], bool]) -> list[Found]:
        """Returns the best pages that `admits`, the best one first."""
        words = set(words_of(query))
        parts: defaultdict[int, list[float]] = defaultdict(list)
        for word in words:
            holders = self._holders.get(word, ())
            rarity = math.log(1 + (len(self._pages) - len(holders) + 0.5) / (len(holders) + 0.5))
            for number, count in holders:
                part = rarity * count * (_SATURATION + 1) / (count + self._damping[number])
                parts[number].append(part)
        # The exact sum, because a set has another order in each process.
        admitted = (
            (math.fsum(each), -number) for number, each in parts.items() if admits(self._pages[number])
        )
        best = heapq.nlargest(count_max, admitted)
        return [Found(page, summarize(page, words)) for page in (self._pages[-place] for _, place in best)]


def words_of(text: str) -> list[str]:
    """Returns the words by which pages are found: in lower case, without the plural's s."""
    return [
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        for word in _WORD.findall(text.lower())
        if word not in _COMMON_WORDS
    ]


def best_line(lines: Sequence[str], words: set[str]) -> int:
    """Returns the line that has most of the words; the first of several, and 0 if none has any."""
    counts = [len(words.intersection(words_of(line))) for line in lines]
    return counts.index(max(counts)) if counts else 0


def summarize(page: WebPage, words: set[str]) -> str:
    """Returns the beginning of the paragraph that has most of the words."""
    paragraphs = [" ".join(part.split()) for part in page.source.split("\n\n") if part.strip()]
    plain = [_LINK.sub(r"\1", part).lstrip("# ") for part in paragraphs]
    if not plain:
        return ""
    passage = plain[best_line(plain, words)]
    return passage if len(passage) <= _SUMMARY_CHARS else passage[:_SUMMARY_CHARS].rsplit(" ", 1)[0] + " …"
