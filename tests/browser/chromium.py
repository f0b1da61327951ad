"""Drives a real Chromium by its own protocol (DevTools), without a library between.

Owns the browser's process and profile. It reaches loopback only: every other name leads nowhere.
"""

import base64
import itertools
import json
import shutil
import subprocess
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from websockets.sync.client import connect

from tests.patience import PATIENCE_S, wait_until

BINARIES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str | None:
    return next((path for name in BINARIES if (path := shutil.which(name))), None)


class Browser:
    def __init__(self, folder: Path) -> None:
        binary = find()
        assert binary is not None, "no Chromium is installed (on Debian: apt install chromium)"
        folder.mkdir(parents=True, exist_ok=True)
        self._chosen = folder / "DevToolsActivePort"
        self._log = (folder / "log").open("wb")
        options = [
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--remote-debugging-port=0", f"--user-data-dir={folder}", "--window-size=1200,1000"),
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
            "about:blank",
        ]
        self._process = subprocess.Popen([binary, *options], stdout=self._log, stderr=self._log)

    def __enter__(self) -> Self:
        try:
            wait_until(lambda: self._chosen.is_file() and bool(self._chosen.read_text()), "Chromium listens")
            port = self._chosen.read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE_S) as listed:
                (page,) = (each for each in json.load(listed) if each["type"] == "page")
            self.page = Page(page["webSocketDebuggerUrl"])
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.page.close()
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class Page:
    """A tab. `requested`: the addresses that it has asked for; `complaints`: errors of its scripts."""

    def __init__(self, address: str) -> None:
        self._open = ExitStack()
        self._socket = self._open.enter_context(connect(address, max_size=None, open_timeout=PATIENCE_S))
        self._numbers = itertools.count(1)
        self.requested: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._open.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(PATIENCE_S))
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        about = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requested.append(about["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(about["exceptionDetails"]))
            case "Log.entryAdded" if about["entry"]["source"] in ("security", "javascript", "violation"):
                self.complaints.append(about["entry"]["text"])

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def ask(self, expression: str) -> Any:
        """Returns the value of an expression; that of a promise, once it has one."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        wait_until(lambda: self.ask(f"Boolean({expression})"), expression)

    def text(self, selector: str) -> str:
        return str(self.ask(f"document.querySelector({json.dumps(selector)})?.textContent ?? ''"))

    def click(self, selector: str) -> None:
        self.ask(f"document.querySelector({json.dumps(selector)}).click()")

    def write(self, selector: str, text: str) -> None:
        self.ask(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(text)}")

    def emulate(self, scheme: str) -> None:
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, selector: str = "body") -> bytes:
        """Returns a PNG of one part of the page, all of which is laid out as if it were on the screen."""
        width, height = self.ask("[innerWidth, document.documentElement.scrollHeight]")
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        box = self.ask(
            f"(({{x, y, width, height}}) => ({{x: x + scrollX, y: y + scrollY, width, height}}))"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        taken = self.call("Page.captureScreenshot", clip={**box, "scale": 0.75}, captureBeyondViewport=True)
        self.call("Emulation.clearDeviceMetricsOverride")
        return base64.b64decode(taken["data"])
