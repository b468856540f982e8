"""A workflow that pays through a bank, which may be down, and the bank."""

from __future__ import annotations

import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tasker import Retry, StepContext, workflow
from tasker.handlers.api import ApiStepHandler
from tests.e2e.workflows import NAMESPACE

paying = workflow(NAMESPACE, "paying", version="1.0.0")


@paying.step(name="pay", system_dependency="bank", retry=Retry(max_attempts=8, backoff="fixed", base_seconds=0.05))
class Pay(ApiStepHandler):
    def call(self, ctx: StepContext[Any]) -> dict[str, Any]:
        answer = self.request(ctx, "POST", ctx.context["bank"], headers={"X-Process": str(os.getpid())})
        return {"receipt": answer.text}


class Bank:
    """An HTTP server that counts who calls it when, and answers with 503 while it is down."""

    def __init__(self, answer_seconds: float) -> None:
        self.works = True
        self.calls: list[tuple[float, str, bool]] = []
        """Time (``time.time()``), process, and whether it was served."""
        bank = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                works = bank.works
                bank.calls.append((time.time(), self.headers["X-Process"], works))
                time.sleep(answer_seconds)
                self.send_response(200 if works else 503)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/payments"

    @property
    def processes(self) -> set[str]:
        """Who has called so far."""
        return {process for _, process, _ in self.calls}

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
