"""Serves the page and the API from one origin, since browsers let a page call no other by default.

python examples/browser/serve.py --api http://127.0.0.1:8000, then open http://127.0.0.1:8080/

Passes requests on, for trying the example; a deployment uses a proxy for that.
"""

import argparse
import http.client
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

PASSED_ON = ("authorization", "content-type", "idempotency-key", "last-event-id")


class Handler(SimpleHTTPRequestHandler):
    """Serves the files of this folder, and passes everything below /v1/ on to the API."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

    def __init__(self, *args: object, api: str) -> None:
        self._api = api
        super().__init__(*args, directory=str(Path(__file__).parent))  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self.path.startswith("/v1/"):
            self._pass_on(None)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self._pass_on(self.rfile.read(int(self.headers.get("content-length", 0))))

    def _pass_on(self, body: bytes | None) -> None:
        headers = {name: self.headers[name] for name in PASSED_ON if self.headers[name]}
        api = http.client.HTTPConnection(self._api, timeout=120)
        try:
            api.request(self.command, self.path, body, headers)
            answer = api.getresponse()
        except OSError as error:
            self.send_error(502, f"the API does not answer: {error}")
            return
        self.send_response(answer.status)
        self.send_header("content-type", answer.getheader("content-type", "application/json"))
        self.end_headers()
        # HTTP/1.0: the end of the connection ends the body, so a stream is passed on as it arrives.
        with answer, suppress(OSError, http.client.HTTPException):  # either side may disconnect
            while some := answer.read1(65_536):
                self.wfile.write(some)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the page and pass /v1 on to an API node.")
    parser.add_argument("--api", default="http://127.0.0.1:8000")
    parser.add_argument("--port", type=int, default=8080)
    chosen = parser.parse_args()
    handler = partial(Handler, api=urlsplit(chosen.api).netloc)
    with ThreadingHTTPServer(("127.0.0.1", chosen.port), handler) as server:
        print(f"open http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
