"""An S3 server on loopback for tests: moto's, in a process of its own that ends with the one that started it.

    python tests/s3_server.py [HOST]     prints its URL and serves until its standard input is closed

moto looks for an object and writes it in two steps, so conditional puts are only exact if it takes one request at a
time, which is what this server does. It checks no signatures: a wrong key is as good as a right one.
"""

import base64
import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

ACCESS_KEY = "DISTSIMFAKEACCESSKEY"
SECRET_KEY = "distsim/fake+secret/that+must/appear+nowhere"  # what a URL or a form would have to escape is in it
BUCKET = "bucket"
_COUNTED = "/requests-so-far"  # no name of a bucket's: this path is the server's own


@contextlib.contextmanager
def exported(endpoint: str, **settings: str) -> Iterator[None]:
    """What obstore and pyarrow need to find the server is in the environment, and no other AWS_*.

    settings : what else is there, or in the place of it, in small letters without AWS_; "" takes a variable away

    obstore alone reads AWS_ALLOW_HTTP; pyarrow takes the scheme from the endpoint.
    """
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",  # else pyarrow asks the machine it is on for keys, and waits
    }
    with mock.patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(variables | {f"AWS_{name.upper()}": value for name, value in settings.items() if value})
        for name in (f"AWS_{name.upper()}" for name, value in settings.items() if not value):
            os.environ.pop(name, None)
        yield


def revealing(contents: Iterable[tuple[str, bytes]]) -> list[str]:
    """Names of the contents in which a key occurs, as it is or as URLs, JSON or Base64 write it."""
    forms = set()
    for key in (ACCESS_KEY, SECRET_KEY):
        forms |= {key, quote(key), quote(key, safe=""), key.replace("/", "\\/")}
        for shift in range(3):  # where it begins within the three bytes that Base64 takes at once
            forms.add(base64.b64encode(b"\0" * shift + key.encode()).decode()[4:-4])
    return [name for name, content in contents if any(form.encode() in content for form in forms)]


@contextlib.contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[str]:
    """The URL of a fresh server with one empty bucket, that listens at this address of the machine only."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), host],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=variables,
        text=True,
    )
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        assert url.startswith(f"http://{host}:"), "moto's server did not start"
        yield url
    finally:
        server.communicate()  # closes its standard input


def requests_of(url: str) -> dict[str, int]:
    """How many requests the server has had, by method; LIST is a GET that lists."""
    with urllib.request.urlopen(f"{url}{_COUNTED}") as answer:
        counted: dict[str, int] = json.load(answer)
    return counted


class _OneAtATime:
    """A WSGI application whose requests are read whole, counted, then taken one by one."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app, self._lock = app, threading.Lock()
        self._counted: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["PATH_INFO"] == _COUNTED:
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self._counted).encode()]
        self._counted["LIST" if "list-type" in environ["QUERY_STRING"] else environ["REQUEST_METHOD"]] += 1
        if length := environ.get("CONTENT_LENGTH"):
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(length)))
        with self._lock:
            return self._app(environ, start_response)


def main() -> None:
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        def log_request(self, *line: Any) -> None:
            pass

    app = _OneAtATime(DomainDispatcherApplication(create_backend_app))
    host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
    server = make_server(host, 0, app, threaded=True, request_handler=Quiet)
    url = f"http://{host}:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="any", aws_secret_access_key="any"
    ).create_bucket(Bucket=BUCKET)
    print(url, flush=True)
    sys.stdin.read()
    os._exit(0)  # connections may still be open, and nothing is to be kept


if __name__ == "__main__":
    main()
