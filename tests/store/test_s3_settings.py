"""S3 as it is sold: wrong settings end in a sentence that says which, and a server that checks signatures is used.

The servers are SeaweedFS (tests/seaweed_server.py), and moto's behind a proxy that misbehaves (tests/faults/proxy.py).
"""

import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3_server
import seaweed_server
from faults import proxy as faulty
from faults import s3
from faults.proxy import REQUESTS, STUCK, Proxy
from sweep_scripts import Outcome, outcome, run_script

from distsim.cli.main import main
from distsim.store import Storage, StorageError, remote
from distsim.store.storage import NotWritable

pytestmark = pytest.mark.usefixtures("blank_figures")

FLAGS = (*s3.SHORT, "--local", "--runs", "1", "--iterations", "1")
PASSWORD = "correct-horse-battery"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with s3_server.serving() as url:
        yield url


@pytest.fixture
def bucket() -> str:
    return f"s3://{s3_server.BUCKET}/{uuid.uuid4().hex}"


def refusal(url: str) -> str:
    """What is said where a sweep would begin."""
    with pytest.raises(StorageError) as caught:
        Storage(url).exclusive()
    said = str(caught.value)
    assert "\n" not in said
    assert PASSWORD not in said
    assert s3_server.revealing([("", said.encode())]) == []
    return said


# --- a server that checks signatures ---------------------------------------------------------------------------------


def report(server: str, bucket: str, key: tuple[str, str]) -> Outcome:
    with s3_server.exported(server, access_key_id=key[0], secret_access_key=key[1]):
        return outcome(lambda: main(["report", bucket]))


def test_a_sweep_on_a_server_that_checks_signatures(signing_server: str, bucket: str, tmp_path: Path) -> None:
    with s3_server.exported(signing_server):
        assert run_script("digits", *FLAGS, "--storage", bucket)[::2] == (0, "")
        assert run_script("digits", *FLAGS, "--storage", tmp_path)[::2] == (0, "")
        root = Storage(bucket)
        assert s3.contents(root) == s3.contents(Storage(tmp_path))
        assert s3_server.revealing(s3.everything(root)) == []
    status, out, err = report(signing_server, bucket, seaweed_server.READER)
    assert (status, err) == (0, "")
    assert "nothing was written: cannot write " in out
    assert "the key may not do this (AccessDenied)" in out
    assert report(signing_server, bucket, seaweed_server.GETTER) == (
        *(1, ""),
        f"distsim: cannot use {bucket} as storage: the key may not do this (AccessDenied)\n",
    )


def test_what_a_real_server_says_of_a_wrong_setting(signing_server: str, bucket: str) -> None:
    with s3_server.exported(signing_server):
        root = Storage(bucket)
        assert root.exclusive()
        assert root.create("once", b"1") is True
        assert root.create("once", b"2") is False
        assert root.get("once") == b"1"
        assert "the bucket does not exist" in refusal("s3://no-such-bucket/p")
        with pytest.raises(StorageError, match="the bucket does not exist"):
            Storage("s3://no-such-bucket/p").get("x")
        assert "the bucket does not exist" in refusal("s3://UPPER.and.dots/p")
    with s3_server.exported(signing_server, secret_access_key=PASSWORD):
        assert refusal(bucket).endswith("check AWS_SECRET_ACCESS_KEY (SignatureDoesNotMatch)")
        with pytest.raises(StorageError, match="SignatureDoesNotMatch") as caught:
            Storage(bucket).put("x", b"1")
        assert not isinstance(caught.value, NotWritable), "it may not read either"
    with s3_server.exported(signing_server, access_key_id="DISTSIMNOBODY"):
        assert "check AWS_ACCESS_KEY_ID" in refusal(bucket)
    with s3_server.exported(signing_server.replace("http:", "https:")):
        assert "does not speak TLS: perhaps its endpoint is http://" in refusal(bucket)
    with s3_server.exported(signing_server, allow_http="false"):
        assert "only if AWS_ALLOW_HTTP=true is set" in refusal(bucket)


@pytest.mark.parametrize(
    "prefix", ["with space", "ünï", "100%", "a%20b", "a%zz", "a%23b%3Fc", "it's+[1]*", "a@b", "end/"]
)
def test_odd_prefixes(moto: str, bucket: str, prefix: str) -> None:
    with s3_server.exported(moto):
        root, other = Storage(f"{bucket}/{prefix}"), Storage(f"{bucket}/another")
        assert root.exclusive()
        root.put("in 100%/a%20b#?/x", b"1")
        other.put("in/y", b"2")
        assert root.sizes() == {"in 100%/a%20b#?/x": 1}
        assert root.folders("in 100%") == ["a%20b#?"]
        assert root.within("in 100%").within("a%20b#?").get("x") == b"1"


@pytest.mark.parametrize(
    "prefix", ["a//b", "a//", "/a", "../a", "a/./b", "%2e%2e/a", "a\\b", "a\tb", "a\nb", "a?b", "a#b"]
)
def test_what_cannot_be_a_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(StorageError, match="prefix"):
        Storage(f"s3://bucket/{prefix}")


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "s3:// bucket/prefix", "s3://bucket\n/prefix"])
def test_what_cannot_be_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="after s3:// comes the name of a bucket"):
        Storage(url)


# --- settings that cannot be meant -----------------------------------------------------------------------------------

ENDPOINTS = {
    "": "is empty",
    "minio.example:9000": "begins with neither https:// nor http://",
    f"user:{PASSWORD}@minio.example:9000": "begins with neither https:// nor http://",
    "ftp://minio.example": "begins with neither https:// nor http://",
    "http://": "port or host is not valid",
    "http://minio.example:99999": "port or host is not valid",
    "http://minio.example:90x": "port or host is not valid",
    f"http://user:{PASSWORD}@minio.example:90x": "port or host is not valid",
    f"http://user:{PASSWORD}/and@minio.example": "port or host is not valid",
    "http://256.1.1.1": "port or host is not valid",
    "http://[::1": "port or host is not valid",
    "http://minio .example": "has a space, a line break",
    "http://minio.example\n": "has a space, a line break",
    "http://minio.example/?x=1": "nothing comes after its host, port and path",
}


@pytest.mark.parametrize("name", ["endpoint_url", "endpoint_url_s3"])
@pytest.mark.parametrize(("endpoint", "sentence"), ENDPOINTS.items())
def test_an_endpoint_that_cannot_be_meant(name: str, endpoint: str, sentence: str) -> None:
    with s3_server.exported("http://127.0.0.1:1"):
        os.environ[f"AWS_{name.upper()}"] = endpoint
        said = refusal("s3://bucket/p")
    assert f"AWS_{name.upper()} " in said
    assert sentence in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("access_key_id", value) for value in ("KEY\n", "KEY\r", "")),
        *(("secret_access_key", value) for value in (f"{PASSWORD}\n", f" {PASSWORD}", "")),
        *(("session_token", value) for value in (f"{PASSWORD}\n{PASSWORD}", "")),
        *(("region", value) for value in ("us-east-1\n", "us east", "../x")),
        ("default_region", "us-east-1\r\n"),
    ],
)
def test_a_key_or_region_that_cannot_be_meant(name: str, value: str) -> None:
    with s3_server.exported("http://127.0.0.1:1"):
        os.environ[f"AWS_{name.upper()}"] = value
        assert f"AWS_{name.upper()} " in refusal("s3://bucket/p")


def test_half_a_pair_of_keys() -> None:
    with s3_server.exported("http://127.0.0.1:1", secret_access_key=""):
        assert "AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not" in refusal("s3://bucket/p")


def test_an_endpoint_where_nobody_is() -> None:
    with s3_server.exported(f"http://user:{PASSWORD}@127.0.0.1:1"):
        assert refusal("s3://bucket/p").endswith("nobody listens at 127.0.0.1:1: check AWS_ENDPOINT_URL")
    with s3_server.exported("http://nobody.invalid"):
        assert "there is no host nobody.invalid" in refusal("s3://bucket/p")
    with s3_server.exported("", endpoint_url="", region="us-esat-1"):
        assert "s3.us-esat-1.amazonaws.com" in refusal("s3://bucket/p")


def test_a_panic_of_obstore_is_a_sentence() -> None:
    """It panics at a host that IDNA does not allow, which is not looked for here. Its exception is no Exception."""
    with s3_server.exported("http://127.0.0.1:1"):
        os.environ["AWS_ENDPOINT_URL"] = "http://-.xn--a"
        assert "obstore cannot use a setting" in refusal("s3://bucket/p")


SAID = {
    "403 RequestTimeTooSkewed": "the clock of this machine is wrong",
    "400 ExpiredToken": "the session token has expired",
    "403 InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
    "403 SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "404 NoSuchBucket": "the bucket does not exist",
    "301 PermanentRedirect": "the bucket is in another region: set AWS_REGION",
    "400 AuthorizationHeaderMalformed": "the bucket is in another region: set AWS_REGION",
    "403 AccountProblem": "The proxy says AccountProblem",
}


@pytest.mark.parametrize(("code", "sentence"), SAID.items())
def test_an_answer_of_s3_in_words(moto: str, bucket: str, code: str, sentence: str) -> None:
    with Proxy(moto, refuse=dict.fromkeys(REQUESTS, code)) as proxy, s3_server.exported(proxy.url):
        said = refusal(bucket)
    assert said.startswith(f"cannot use {bucket} as storage: ")
    assert sentence in said
    assert code.startswith("301") or said.endswith(f"({code.partition(' ')[2]})")


@pytest.mark.parametrize(
    ("url", "variable"), [("gs://b/p", "GOOGLE_APPLICATION_CREDENTIALS"), ("az://b/p", "AZURE_STORAGE_ACCOUNT_NAME")]
)
def test_no_credentials_of_other_stores(
    url: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    said = refusal(url)
    assert variable in said
    assert "AWS_" not in said


@pytest.mark.parametrize("code", ["412 PreconditionFailed", "409 ConditionalRequestConflict"])
def test_a_store_that_refuses_every_conditional_put(
    moto: str, bucket: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distsim.store.storage.COLLIDED", (0.01,) * 3)
    with Proxy(moto, refuse={"conditional put": code}) as proxy, s3_server.exported(proxy.url):
        assert "refuses to create an object that does not exist" in refusal(bucket)
        with pytest.raises(StorageError, match="refuses to create an object that does not exist"):
            Storage(bucket).create("x", b"1")
        assert Storage(bucket).sizes() == {}


# --- servers that are too slow ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STUCK)
def test_a_request_that_makes_no_way_is_made_again(
    moto: str, bucket: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "TIMEOUT", 0.6)
    plans = {request: [kind] for request in REQUESTS}
    with Proxy(moto, plans) as proxy, s3_server.exported(proxy.url):
        storage = Storage(bucket)
        assert storage.create("mark", b"the first") is True
        storage.put("x", b"1234567890")
        assert storage.sizes() == {"mark": 9, "x": 10}
        assert storage.get("x") == b"1234567890"
        storage.delete(["x"])
        assert storage.get("x") is None
    no_body = {"put", "conditional put"} if kind == "drip" else set()
    assert {request for _, request, _ in proxy.faults} == {*REQUESTS} - {"multipart"} - no_body, proxy.table()


def test_how_long_a_request_may_take(bucket: str) -> None:
    with s3_server.exported("http://127.0.0.1:1"):
        limits = [
            remote.connect(bucket, **how).client_options["timeout"] for how in ({}, {"size": 10**6}, {"first": True})
        ]
    assert limits == ["30s", "34s", "8s"]


def test_a_store_that_never_answers_is_given_up(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"FIRST_TIMEOUT": 0.3, "FIRST_PATIENCE": 0.5, "TIMEOUT": 12.0, "PATIENCE": 12.0}.items():
        monkeypatch.setattr(remote, name, seconds)
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"127.0.0.1:{server.getsockname()[1]}"
        with s3_server.exported(f"http://{where}"):
            started = time.monotonic()
            assert refusal(bucket).endswith(f"{where} gave no whole answer in time")
            assert time.monotonic() - started < 10, "the first request is given up sooner than others"
            monkeypatch.setattr(remote, "TIMEOUT", 0.3)
            monkeypatch.setattr(remote, "PATIENCE", 0.5)
            for operation in (lambda root: root.create("x", b"1"), lambda root: root.get("x"), Storage.sizes):
                with pytest.raises(StorageError, match="gave no whole answer in time"):
                    operation(Storage(bucket))


def test_a_large_object_may_take_its_time(moto: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object of 3 MB takes three seconds here, and a small one may take one."""
    monkeypatch.setattr(remote, "TIMEOUT", 1.0)
    content = os.urandom(3 * faulty.SLOW)
    plans = {request: ["slow"] * 3 for request in ("get", "put")}
    with Proxy(moto, plans) as proxy, s3_server.exported(proxy.url):
        Storage(bucket).put("large", content)
        assert Storage(bucket).get("large") == content
    assert proxy.requests["obstore", "put"] == 1, "none broke off"
    assert proxy.requests["obstore", "get"] == 2, "one told the size"


def test_what_the_environment_says_of_connections_counts(bucket: str) -> None:
    """obstore does not look there once it is given a time limit."""
    with s3_server.exported("http://127.0.0.1:1", proxy_url="http://127.0.0.1:2"):
        assert str(remote.connect(bucket).client_options["proxy_url"]) == "http://127.0.0.1:2"
