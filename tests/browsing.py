"""Answers the browser's calls from the shipped pages, in one fixed course, wherever an attempt begins.

Owns the course (a search, its first result, a pattern in it) and its results; keeps nothing between calls, so
that a takeover gets what the first owner got.
"""

import json

from shared.tool_calls import ToolCall, ToolFailure, ToolListing, ToolOutput
from shared.web_search import SearchOptions, read_display
from tool_runner.builtin.browser import SHIPPED
from tool_runner.builtin.browsing import Browser, BrowserView
from tool_runner.builtin.page_search import PageIndex, load_pages

_INDEX = PageIndex(load_pages(SHIPPED))
QUERY, PATTERN = "fencing token", "append"


def browse(task: ToolCall | ToolListing) -> ToolOutput | ToolFailure:
    """Returns the result of one step of the course; the steps before it are taken as made."""
    assert isinstance(task, ToolCall)
    arguments = json.loads(task.arguments)
    options = task.search or SearchOptions()
    browser = Browser(_INDEX, options=options)
    view = browser.search(arguments.get("query", QUERY), 10, None)
    for name in ("open", "find"):
        if task.name == "search":
            break
        visited = browser.visited.after(view.shown, 2**20)
        browser = Browser(_INDEX, visited, options)
        view = _step(browser, name, arguments if name == task.name else {})
        if name == task.name:
            break
    return ToolOutput(view.text, read_display(dict(view.structured)))


def _step(browser: Browser, name: str, arguments: dict[str, str]) -> BrowserView:
    if name == "open":
        return browser.open(arguments.get("id", 0), -1, -1, -1, None, as_source=False)
    return browser.find(arguments.get("pattern", PATTERN), -1)
