"""Object stores: which URLs name one, how long a request may take, and when it is made again."""

import datetime
import os
import re
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

from obstore.exceptions import GenericError
from obstore.store import from_url

from distsim.store import aws

SCHEMES = ("s3", "gs", "az", "s3a", "adl", "azure", "abfs", "abfss")
VARIABLES = {"s3": "AWS", "s3a": "AWS", "gs": "GOOGLE"}  # how the environment's variables begin; AZURE for the rest
# What may be said of connections there, after that beginning.
CONNECTION = (
    *("allow_http", "allow_invalid_certificates", "connect_timeout", "default_content_type", "http1_only"),
    *("http2_only", "http2_keep_alive_interval", "http2_keep_alive_timeout", "http2_keep_alive_while_idle"),
    *("pool_idle_timeout", "pool_max_idle_per_host", "proxy_url", "proxy_ca_certificate", "proxy_excludes"),
    *("randomize_addresses", "read_timeout", "timeout", "user_agent"),
)

# A request that makes no way is given up: a server that sends a byte a second would hold up a sweep for ever. One that
# is large and slow is not: a network of 80 MB takes five minutes on 2 Mbit/s.
TIMEOUT = 30.0  # seconds for a request, to the last byte of its answer
SLOWEST = 250_000  # bytes a second; what a request carries may take as long as this besides
PATIENCE = 180.0  # seconds in which a request is made again: servers that ask to slow down do so for minutes
RETRIES: Any = {"max_retries": 40, "backoff": {"base": 3}}
# The first request has three attempts within half a minute: until it succeeds, a setting is probably wrong.
FIRST_TIMEOUT = 8.0
FIRST_PATIENCE = 16.0
FIRST_RETRIES: Any = {"max_retries": 2}
DELAYS = (0.1, 0.3, 1.0, 3.0, 10.0)

# "after 12 retries, ... - HTTP error" does not match: obstore has repeated that already
_BROKEN = re.compile(
    r" in [\d.]+[µm]?s - HTTP error: (error sending|request or)|response body error|decoding response body"
)


def connect(url: str, size: int = 0, first: bool = False) -> Any:
    """Return the obstore store of a URL.

    size : bytes that a request carries, in either direction; a larger one may take longer
    first : give up soon

    ValueError: the environment or a profile has a setting that cannot be meant.
    """
    scheme = url.partition(":")[0].lower()
    seconds = FIRST_TIMEOUT if first else TIMEOUT + size / SLOWEST
    patience = datetime.timedelta(seconds=FIRST_PATIENCE if first else PATIENCE)
    options: Any = {"timeout": datetime.timedelta(seconds=seconds)} | _options(scheme)
    config: Any = aws.config() if scheme in ("s3", "s3a") else {}
    retries: Any = (FIRST_RETRIES if first else RETRIES) | {"retry_timeout": patience}
    return unpanicked(lambda: from_url(url, retry_config=retries, config=config, client_options=options))


def _options(scheme: str) -> dict[str, str]:
    """Return what the environment says of connections: obstore does not read it if it is given any option."""
    begin = VARIABLES.get(scheme, "AZURE")
    names = {name: f"{begin}_{name.upper()}" for name in CONNECTION}
    return {name: os.environ[variable] for name, variable in names.items() if variable in os.environ}


def again(work: Callable[[], Any], first: bool = False) -> Any:
    """Do the work, and repeat it if the connection breaks.

    obstore repeats most requests itself, but not conditional puts, deletions and listings.

    first : give up soon
    """
    patience = FIRST_PATIENCE if first else PATIENCE
    started = time.monotonic()
    for number, delay in enumerate(DELAYS):
        try:
            return unpanicked(work)
        except GenericError as error:
            too_late = number > 0 and time.monotonic() - started > patience
            if too_late or not _BROKEN.search(str(error).partition("\n")[0]):
                raise
            time.sleep(delay)
    return unpanicked(work)


def unpanicked(work: Callable[[], Any]) -> Any:
    """Do the work. ValueError: obstore panicked. That is no Exception, so nothing else would catch it."""
    try:
        return work()
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
    raise ValueError("obstore cannot use a setting of it: check its URL, endpoint, region and keys")


def require_a_place(url: str) -> None:
    """Refuse a URL that is not a store's. ValueError: it has another scheme, or more in it than a bucket and prefix.

    The text does not repeat a URL that may hold credentials.
    """
    if "://" in url:
        _require_bucket_and_prefix(url)
    match = re.match(r"([A-Za-z0-9]{2,}):/", url)
    if match and (match[1].lower() not in SCHEMES or "://" not in url):
        raise ValueError(
            f"cannot use {url} as storage: it is not a folder, and a URL must begin with {SCHEMES[0]}://, "
            f"{SCHEMES[1]}:// or {SCHEMES[2]}://"
        )


def _require_bucket_and_prefix(url: str) -> None:
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket or "?" in rest or "#" in rest:
        raise ValueError(
            f"a storage URL is {scheme}://bucket/prefix and nothing else: credentials, endpoint and region come from "
            "the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, ...); in a prefix # is %23 "
            "and ? is %3F"
        )
    if scheme.lower() not in SCHEMES:
        return
    if not bucket or bucket.strip() != bucket:
        raise ValueError(f"cannot use {url!r} as storage: after {scheme}:// comes the name of a bucket")
    meant = urllib.parse.unquote(prefix)
    if re.search(r"[\x00-\x1f\x7f\\]", meant):
        raise ValueError(f"cannot use {url!r} as storage: line breaks, tabs and \\ cannot be in a prefix")
    if {"", ".", ".."} & set(meant.removesuffix("/").split("/")) and meant:
        raise ValueError(
            f"cannot use {url} as storage: a part of its prefix is empty, . or .., which an object store takes as names"
        )
