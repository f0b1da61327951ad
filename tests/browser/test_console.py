"""The console in a real browser, against a cluster of the launcher's. `make test-browser`."""

import json
import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.browser.chromium import Browser, Page
from tests.patience import wait_until
from tests.running import PATIENT, RunningCluster, start_cluster

KEY = "key-of-the-console-in-tests"
PICTURES = os.environ.get("ANTIPHON_PICTURES")
"""A folder for the pictures of the documentation; unset: none are kept."""
PROMPT = "Count slowly to 200"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    running = start_cluster(
        tmp_path_factory.mktemp("console") / "data", "--workers", "2", ANTIPHON_CONSOLE_KEY=KEY, **PATIENT
    )
    yield running
    running.stop()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with Browser(tmp_path / "profile") as browser:
        yield browser.page
        assert browser.page.complaints == []


def keep(page: Page, name: str, selector: str = "body") -> None:
    if PICTURES:
        (Path(PICTURES) / f"console-{name}.png").write_bytes(page.picture(selector))


def enter(page: Page, cluster: RunningCluster) -> str:
    address = f"{cluster.urls[0]}/console"
    page.open(f"{address}#{KEY}")
    page.wait(
        "!document.getElementById('inside')?.hidden && document.querySelector('#processes tbody tr td + td')"
    )
    return address


def test_the_line_is_cut_and_the_worker_killed_and_nothing_is_lost(
    page: Page, cluster: RunningCluster
) -> None:
    address = enter(page, cluster)
    assert page.ask("location.href") == address, "the key stays in the address"
    assert page.ask("!document.getElementById('playground').hidden")
    page.write("#prompt", PROMPT)
    page.click("#send")
    page.wait("document.getElementById('said').textContent.includes('10')")
    page.wait("!document.getElementById('one').hidden")
    page.click("#cut")
    page.wait("document.getElementById('notes').textContent.includes('resumed after event')")
    page.wait("document.getElementById('said').textContent.includes(' 40')")
    before = page.text("#facts")
    page.click("#kill")
    page.wait("document.getElementById('notes').textContent.includes('killed worker-')")
    page.wait("document.querySelector('#picture .takeover')")
    assert "taken over by worker-" in page.text("#picture-text")
    assert page.text("#facts") != before
    page.wait("document.querySelector('#picture .own-b + *')")
    page.wait("document.getElementById('said').textContent.includes(' 80')")
    keep(page, "takeover")
    page.wait("document.getElementById('notes').textContent.includes('completed')")
    said = page.text("#said")
    assert [word for word in said.replace(",", " ").split() if word.isdigit()] == [
        str(n) for n in range(1, 201)
    ]
    notes = page.text("#notes")
    assert "each of them once and in order" in notes
    assert " came after " not in notes
    page.wait("document.getElementById('facts').textContent.includes('completed')")
    page.emulate("dark")
    keep(page, "dark", "#one")

    # The picture of a response that has ended before the page looks.
    tenant_and_id = "default/" + page.text("#one-title").removeprefix("Response ")
    page.ask("document.getElementById('one-title').textContent = ''")
    page.write("#wanted", tenant_and_id)
    page.click("#find-form button")
    page.wait("document.querySelector('#picture .estimated')")  # only there are places reckoned from numbers
    page.wait("document.getElementById('picture-text').textContent.includes('completed after')")
    assert "taken over by worker-" in page.text("#picture-text")

    own = cluster.urls[0]
    assert [one for one in page.requested if not one.startswith((own, "data:", "about:"))] == []


def test_the_page_shows_processes_queues_and_tool_calls_and_is_left_without_its_key(
    page: Page, cluster: RunningCluster
) -> None:
    address = enter(page, cluster)
    roles = page.ask(
        "[...document.querySelectorAll('#processes tbody tr')].map((row) => row.cells[0].textContent)"
    )
    assert {"api", "worker", "tool_runner"} <= set(roles)
    page.write("#prompt", "Multiply 123*456 using the python tool.")
    page.click("#python")
    page.click("#send")
    page.wait("document.getElementById('notes').textContent.includes('completed')")
    page.wait("document.querySelector('#picture .tool')")
    assert "56088" in page.text("#said").replace(",", "")

    page.ask("sessionStorage.clear()")
    page.open(address)
    page.wait("document.getElementById('entrance')?.hidden === false")
    page.write("#key", "not-the-key-of-the-console")
    page.click("#key-form button")
    page.wait("document.getElementById('state').textContent.includes('Incorrect console key')")
    assert page.ask("document.getElementById('inside').hidden")
    page.write("#key", KEY)
    page.click("#key-form button")
    page.wait("document.querySelector('#processes tbody tr td + td')")


def test_everything_has_a_name_and_is_reached_by_the_keyboard(page: Page, cluster: RunningCluster) -> None:
    enter(page, cluster)
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    acting = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node["ignored"]
        and node["role"]["value"] in ("button", "textbox", "checkbox", "table", "image", "log")
    ]
    assert [role for role, name in acting if not name.strip()] == []
    assert {"Send", "Cut the line", "Kill the worker"} <= {name for role, name in acting if role == "button"}
    levels = page.ask(
        "[...document.querySelectorAll('h1,h2,h3')].filter((h) => h.checkVisibility())"
        ".map((h) => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert page.ask("document.documentElement.lang") == "en"
    for scheme in ("light", "dark"):
        page.emulate(scheme)
        assert json.loads(page.ask(CONTRAST)) == [], scheme


def test_what_stays_the_same_is_not_replaced_while_the_page_polls(
    page: Page, cluster: RunningCluster
) -> None:
    enter(page, cluster)
    page.ask("document.querySelector('#processes tbody tr').isMarked = true")
    page.ask("getSelection().selectAllChildren(document.querySelector('#processes tbody td + td'))")
    chosen = page.ask("String(getSelection())")
    readings = len(page.requested)
    wait_until(lambda: bool(page.ask("1")) and len(page.requested) > readings + 2, "two more readings")
    assert page.ask("document.querySelector('#processes tbody tr').isMarked === true")
    assert page.ask("String(getSelection())") == chosen != ""


def test_a_node_that_hangs_is_said_to_and_its_return_as_well(page: Page, cluster: RunningCluster) -> None:
    enter(page, cluster)
    page.wait("document.getElementById('state').textContent === 'Live'")
    cluster.kill("api", signal.SIGSTOP)
    try:
        page.wait("document.getElementById('state').textContent.includes('does not answer')")
        assert page.ask("document.getElementById('inside').classList.contains('stale')")
    finally:
        cluster.kill("api", signal.SIGCONT)
    page.wait("document.getElementById('state').textContent === 'Live'")


def test_a_narrow_screen_scrolls_in_one_direction(page: Page, cluster: RunningCluster) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=320, height=700, deviceScaleFactor=1, mobile=False)
    enter(page, cluster)
    page.write("#wanted", f"default/resp_0_{'0' * 32}")
    page.click("#find-form button")
    page.wait("document.getElementById('find-state').textContent.includes('not found')")
    assert page.ask("document.documentElement.scrollWidth") <= 320


def test_the_picture_has_its_turns_waits_and_losses(page: Page, cluster: RunningCluster) -> None:
    enter(page, cluster)
    drawn = json.loads(page.ask(PICTURE))
    assert drawn["turns"] == [
        ["reasoning", "mcp_call", "mcp_call"],
        ["mcp_call"],
        ["compaction"],
        ["message"],
    ]
    assert drawn["stretches"] == [
        ["queued", 0, 100],
        ["owned", 100, 400],
        ["waits", 400, 600],
        ["owned", 600, 800],
        ["silent", 800, 1000],
        ["owned", 1000, 1200],
        ["owned", 1200, 1300],
    ]
    assert drawn["changes"] == ["handed over", "taken over", "ended from outside"]
    assert drawn["elements"] == ["line", "rect", "text", "title"], "a name became an element"
    assert "<img src=x>" in drawn["labels"]
    assert drawn["bars"] < 1_000, "each of ten thousand items has a bar"


def test_a_long_log_is_written_some_at_a_time(page: Page, cluster: RunningCluster) -> None:
    enter(page, cluster)
    assert page.ask(TAIL) == [0, 300, "line 99999", 1]


def test_a_table_that_does_not_show_all_says_so(page: Page, cluster: RunningCluster) -> None:
    enter(page, cluster)
    assert page.text("#queues-title") == "Waiting, by tenant and tier"
    assert page.text("#open-title") == "Open now"
    page.ask(FULLER)
    for title, part in (
        ("queues-title", "of 61 that wait, by tenant and tier"),
        ("open-title", "of 1198 that are open"),
    ):
        page.wait(f"document.getElementById('{title}').textContent.endsWith('{part}')")


FULLER = """(() => {
  const real = window.fetch;
  window.fetch = async (...asked) => {
    const answer = await real(...asked);
    if (!String(asked[0]).includes('/console/cluster')) return answer;
    const view = await answer.json();
    view.queues[0].flows_total = 61;
    view.open.total = 1198;
    return new Response(JSON.stringify(view), { headers: answer.headers });
  };
})()"""
PICTURE = """(async () => {
  const { changesOf, draw, stretchesOf, turnsOf } = await import('/console/files/picture.js');
  const item = (type, added, done, label = type) => (
    { type, label, added, done, fromMs: added * 10, untilMs: done * 10, paleUntilMs: null });
  const items = [
    item('mcp_list_tools', 1, 2), item('reasoning', 3, 5), item('mcp_call', 6, 10),
    item('mcp_call', 7, 12, '<img src=x>'),
    item('mcp_call', 13, 90), item('compaction', 91, 92), item('message', 93, 120),
  ];
  const grant = (attempt, owner, after_ms, until_ms, parting) => (
    { attempt, owner, after_ms, until_ms, parting });
  const grants = [
    grant(1, 'worker-a', 100, 400, 'handed_over'), grant(2, 'worker-b', 600, 800, 'lost'),
    grant(3, 'worker-c', 1000, 1200, 'seized'), grant(4, 'api-a', 1200, 1300, 'ended'),
  ];
  const history = { grants, items, endMs: 1300, status: 'failed' };
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  draw(svg, { ...history, items: items.map((each) => ({ ...each, untilMs: each.fromMs + 300 })) });
  const many = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const thousands = Array.from({ length: 10000 }, (_, n) => item('message', n / 100, n / 100));
  draw(many, { ...history, items: thousands });
  return JSON.stringify({
    turns: turnsOf(items).map((turn) => turn.map((each) => each.type)),
    stretches: stretchesOf(history).map((each) => [each.kind, each.fromMs, each.untilMs]),
    changes: changesOf(history).map((each) => each.word),
    elements: [...new Set([...svg.querySelectorAll('*')].map((each) => each.tagName))].sort(),
    labels: [...svg.querySelectorAll('text')].map((each) => each.textContent),
    bars: many.querySelectorAll('rect').length,
  });
})()"""

TAIL = """(async () => {
  const { Tail } = await import('/console/files/tables.js');
  const list = document.createElement('ol'), tail = new Tail(list, 300);
  let written = 0;
  const observer = new MutationObserver(() => { written += 1; });
  observer.observe(list, { childList: true });
  for (let n = 0; n < 100000; n++) tail.add(`line ${n}`);
  const before = list.children.length;
  while (!list.children.length) await new Promise((resolve) => setTimeout(resolve, 50));
  return [before, list.children.length, list.lastChild.textContent, written];
})()"""

CONTRAST = """JSON.stringify((() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const light = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = getComputedStyle(document.documentElement);
  const pairs = [];
  for (const front of ['ink', 'faint', 'accent', 'bad']) {
    for (const back of ['paper', 'card']) pairs.push([front, back]);
  }
  for (const back of ['own-a', 'own-b', 'model', 'thought', 'tool', 'accent']) pairs.push(['card', back]);
  for (const back of ['wait', 'soft']) pairs.push(['ink', back]);
  for (const front of ['faint', 'bad']) pairs.push([front, 'soft']);
  return pairs.filter(([front, back]) => {
    const [a, b] = [front, back].map((name) => light(style.getPropertyValue(`--${name}`).trim()));
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
  });
})())"""
"""The pairs of colours that are too alike for small text (WCAG 2.2, 1.4.3)."""
