"""A proxy between a client and the cluster that keeps what the client sends, for clients that do not tell.

Owns the server, which is on loopback and ends with its context.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from local.ports import HOST
from tests.patience import PATIENCE_S


@contextmanager
def recording(url: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yields an address that leads to `url`, and the bodies of the POST requests to it so far."""
    sent: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass_on(b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            sent.append(json.loads(body))
            self._pass_on(body)

        def _pass_on(self, body: bytes) -> None:
            kept = {
                name: value
                for name, value in self.headers.items()
                if name.lower() in ("content-type", "authorization", "accept")
            }
            target, timeout_s = url + self.path, PATIENCE_S
            with httpx.stream(
                self.command, target, content=body, headers=kept, timeout=timeout_s, trust_env=False
            ) as answer:
                self.send_response(answer.status_code)
                self.send_header("content-type", answer.headers["content-type"])
                self.end_headers()  # HTTP/1.0: the end of the connection ends the body
                for chunk in answer.iter_bytes():
                    self.wfile.write(chunk)
                    self.wfile.flush()

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer((HOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}", sent
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
