"""Stands between the clients and an S3 server and goes wrong, by a plan that is drawn from a seed.

    with Proxy("http://127.0.0.1:5000", drawn(seed=0, gap=5)) as proxy:
        ...                                     # everything talks to proxy.url
    proxy.faults                                # (client, request, kind of fault) -> how often

What goes wrong, and what of the request has happened by then:
    reset, closed       the connection goes before the request is passed on (RST, FIN): nothing
    lost                it goes after, before the answer: all of it. A conditional put that is tried again finds itself
    cut                 in the midst of the answer's body: all of it
    500, 504            all of it
    502, 503, SlowDown  nothing. 502 and 504 come from a gateway, as HTML
    409                 nothing; S3's answer to a conditional put that crosses another one
    silent              all of it, and no answer ever
    drip, drip headers  all of it; the answer's body, or all of the answer, comes byte by byte
    slow                all of it; the answer comes steadily, or late, at SLOW bytes a second
"""

import contextlib
import http.client
import io
import itertools
import random
import socket
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

REQUESTS = ("get", "list", "put", "conditional put", "multipart", "delete")
DONE_FIRST = ("lost", "cut", "500 InternalError", "504 GatewayTimeout")
KINDS = ("reset", "closed", *DONE_FIRST, "502 BadGateway", "503 ServiceUnavailable", "503 SlowDown")
CONFLICT = "409 ConditionalRequestConflict"
STUCK = ("silent", "drip", "drip headers")
DRIP = 1.0  # seconds between two bytes
SLOW = 1_000_000  # bytes of the request or of the answer in a second

NOT_PASSED_ON = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "host"}


def drawn(seed: int, gap: int) -> dict[str, Iterator[str | None]]:
    """For every sort of request what to do to each, for ever: about `gap` go well, then one fails, or two.

    Every kind of fault comes before any comes again.
    """
    return {request: _drawn(request, random.Random(f"{seed}, {request}"), gap) for request in REQUESTS}


def _drawn(request: str, rng: random.Random, gap: int) -> Iterator[str | None]:
    kinds = [kind for kind in KINDS if kind != "cut" or request != "put"]  # whose answer has no body
    kinds += [CONFLICT] if request == "conditional put" else []
    while True:
        for kind in rng.sample(kinds, len(kinds)):
            yield from itertools.repeat(None, rng.randint(0, 2 * gap))
            yield from itertools.repeat(kind, rng.choice((1, 1, 2)))


class Proxy:
    """The proxy, while the `with` block lasts.

    plans : sort of request -> what to do to one after the other, None for nothing; when it is at its end, nothing more
    strip : take the condition from conditional puts, as a store does that knows none and says nothing
    refuse : sort of request, or a client -> the one answer that it gets, such as "501 NotImplemented"
    """

    def __init__(
        self,
        upstream: str,
        plans: Mapping[str, Iterable[str | None]] | None = None,
        strip: bool = False,
        refuse: Mapping[str, str] | None = None,
    ) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.strip, self.refuse = strip, dict(refuse or {})
        self.faults: Counter[tuple[str, str, str]] = Counter()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._plans = {request: iter(plan) for request, plan in (plans or {}).items()}

    def __enter__(self) -> "Proxy":
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fate(self, client: str, request: str) -> str | None:
        """What to do to this request, the next of its sort."""
        with self._lock:
            self.requests[client, request] += 1
            return next(self._plans.get(request, iter(())), None)

    def did(self, client: str, request: str, kind: str) -> None:
        with self._lock:
            self.faults[client, request, kind] += 1

    def table(self) -> str:
        """The faults, one row per client and request, and of how many requests."""
        rows: dict[tuple[str, str], list[str]] = defaultdict(list)
        for (client, request, kind), count in sorted(self.faults.items()):
            rows[client, request].append(f"{kind} {count}")
        lines = [
            f"{client:8} {request:16} {sum(n for key, n in self.faults.items() if key[:2] == (client, request)):4} "
            f"of {total:5}  {', '.join(rows[client, request])}"
            for (client, request), total in sorted(self.requests.items())
        ]
        return "\n".join([*lines, f"{self.faults.total()} faults in {self.requests.total()} requests"])


class _Server(ThreadingHTTPServer):
    proxy: Proxy
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def shutdown_request(self, request: Any) -> None:
        linger = request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        if struct.unpack("ii", linger)[0]:  # to be reset, so no FIN
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may be killed at any moment."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._upstream = http.client.HTTPConnection(self.server.proxy.upstream)

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def relay(self) -> None:
        proxy, request = self.server.proxy, self._sort()
        client = "pyarrow" if "aws-sdk-cpp" in self.headers.get("User-Agent", "") else "obstore"
        kind = proxy.fate(client, request)
        if kind in ("reset", "closed"):
            proxy.did(client, request, kind)
            self._hang_up(reset=kind == "reset")
            return
        body = self._body()
        if refusal := proxy.refuse.get(request) or proxy.refuse.get(client):
            proxy.did(client, request, refusal)
            self._answer(refusal)
            return
        if kind is not None and kind not in (*DONE_FIRST, *STUCK, "slow"):
            proxy.did(client, request, kind)
            self._answer(kind)
            return
        response, content = self._forward(body)
        if kind in ("cut", "drip") and len(content) < 2:
            kind = None
        if kind is not None:
            proxy.did(client, request, kind)
        if kind == "lost":
            self._hang_up(reset=False)
        elif kind in STUCK:
            self._stick(kind, response, content)
        elif kind == "slow":
            proxy.over.wait(len(body) / SLOW)
            self._give(response, content, None, slow=True)
        elif kind is not None and kind != "cut":
            self._answer(kind)
        else:
            self._give(response, content, len(content) // 2 if kind else None)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = relay

    def _sort(self) -> str:
        url = urlsplit(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        if query.keys() & {"uploads", "uploadId", "partNumber"}:
            return "multipart"
        if self.command == "PUT":
            return "conditional put" if self.headers.get("If-None-Match") else "put"
        if self.command == "DELETE" or "delete" in query:
            return "delete"
        return "get" if url.path.strip("/").count("/") else "list"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in NOT_PASSED_ON}
        if self.server.proxy.strip and self.command == "PUT":
            headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
        if self.command in ("PUT", "POST"):
            headers["Content-Length"] = str(len(body))
        try:
            self._upstream.request(self.command, self.path, body or None, headers)
            response = self._upstream.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):  # it was idle for too long: nothing has happened
            self._upstream.close()
            self._upstream.request(self.command, self.path, body or None, headers)
            response = self._upstream.getresponse()
        return response, response.read()

    def _stick(self, kind: str, response: http.client.HTTPResponse, content: bytes) -> None:
        """Give the answer byte by byte, or not at all, until the client hangs up."""
        over, wfile = self.server.proxy.over, self.wfile
        self.close_connection = True
        if kind == "silent":
            over.wait()
            return
        self.wfile = answer = io.BytesIO()  # type: ignore[assignment]
        self._give(response, content, None)
        self.wfile = wfile
        at_once = len(answer.getvalue()) - len(content) if kind == "drip" else 0
        wfile.write(answer.getvalue()[:at_once])
        for byte in answer.getvalue()[at_once:]:
            if over.wait(DRIP):
                return
            wfile.write(bytes([byte]))

    def _give(self, response: http.client.HTTPResponse, content: bytes, only: int | None, slow: bool = False) -> None:
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in NOT_PASSED_ON:
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        if length is not None and response.status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        step = SLOW // 10 if slow else max(len(content), 1)
        for start in range(0, len(content), step):
            self.wfile.write(content[:only][start : start + step])
            if slow:
                self.server.proxy.over.wait(0.1)
        if only is not None:
            self._hang_up(reset=False)

    def _answer(self, kind: str) -> None:
        status, _, code = kind.partition(" ")
        by_gateway = status in ("502", "504")  # which are not S3's own, and come as HTML
        page = f"<html><head><title>{status} {code}</title></head><body><h1>{status} {code}</h1></body></html>"
        key = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        told = f"<AWSAccessKeyId>{key}</AWSAccessKeyId>" if status == "403" else ""  # as S3 does
        error = f"<Error><Code>{code}</Code><Message>The proxy says {code}.</Message>{told}</Error>"
        content = (page if by_gateway else error).encode()
        self.send_response_only(int(status))
        self.send_header("Content-Type", "text/html" if by_gateway else "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _hang_up(self, reset: bool) -> None:
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            return super().handle_one_request()
        self.close_connection = True

    def log_message(self, *message: Any) -> None:
        """Nobody reads it; proxy.faults tells what was done."""
