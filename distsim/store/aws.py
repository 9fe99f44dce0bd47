"""Settings of S3: those of the environment, checked, and those of a profile of ~/.aws, as `aws configure` leaves it."""

import configparser
import ipaddress
import os
import re
import urllib.parse
from pathlib import Path

KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
SECRETS = tuple(name.upper() for name in KEYS)
# A service of the machine that gives keys by itself, as in a container with a role.
SERVICES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
# Entries of a profile whose keys are given by a program or a login.
ELSEWHERE = ("sso_session", "sso_start_url", "credential_process", "login_session", "source_profile")


def config() -> dict[str, str]:
    """Return keys, region and endpoint of the profile AWS_PROFILE, or of `default`, that the environment does not have.

    A profile whose keys come from a role of the machine gives no keys. ValueError: a setting cannot be meant, or the
    profile does not exist, or its keys are given by a program or a login.
    """
    _require_usable(dict(os.environ), "")
    profile = os.environ.get("AWS_PROFILE") or "default"
    keys = _section("AWS_SHARED_CREDENTIALS_FILE", "credentials", profile)
    settings = _section("AWS_CONFIG_FILE", "config", profile if profile == "default" else f"profile {profile}")
    merged = (settings or {}) | (keys or {})
    found = {}
    if not {"AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", *SERVICES} & os.environ.keys():
        if profile != "default" and keys is settings is None:
            raise ValueError(f"AWS_PROFILE is {profile}, and ~/.aws has no such profile")
        found = _keys(profile, merged)
    if "region" in merged and not {*REGIONS} & os.environ.keys():
        found["aws_region"] = merged["region"]
    if "endpoint_url" in merged and not {*ENDPOINTS} & os.environ.keys():
        found["aws_endpoint_url"] = merged["endpoint_url"]
    _require_usable({name.upper(): value for name, value in found.items()}, f" of profile {profile}")
    return found


def _keys(profile: str, merged: dict[str, str]) -> dict[str, str]:
    if {"aws_access_key_id", "aws_secret_access_key"} <= merged.keys():
        return {name: merged[name] for name in KEYS if name in merged}
    if entry := next((entry for entry in ELSEWHERE if entry in merged), None):
        option = "" if profile == "default" else f" --profile {profile}"
        raise ValueError(
            f"profile {profile} of ~/.aws has no keys but {entry}, which distsim does not follow: set the variables "
            f"that `aws configure export-credentials --format env{option}` prints"
        )
    return {}


def _section(variable: str, name: str, section: str) -> dict[str, str] | None:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        file = Path(os.environ[variable]) if variable in os.environ else Path.home() / ".aws" / name
        parser.read(file)
        return dict(parser[section]) if parser.has_section(section) else None
    except (OSError, RuntimeError, configparser.Error, UnicodeDecodeError):  # RuntimeError: there is no home
        return None


def _require_usable(settings: dict[str, str], whose: str) -> None:
    """Check endpoint, region and keys before obstore gets them, which panics at some. No secret is repeated."""
    for name in (*SECRETS, *REGIONS, *ENDPOINTS):
        value = settings.get(name)
        if value is None:
            continue
        if not value and name not in REGIONS:
            raise ValueError(f"{name}{whose} is empty: unset it, or set it to a value")
        if re.search(r"[^\x21-\x7e]", value):
            raise ValueError(f"{name}{whose} has a space, a line break or a letter that is not ASCII in it")
        if name in REGIONS and value and not re.fullmatch(r"[\w.-]+", value):
            raise ValueError(f"{name}{whose} is {value}, expected a region such as us-east-1")
        if name in ENDPOINTS:
            _require_endpoint(name + whose, value)
    if "AWS_ACCESS_KEY_ID" in settings and "AWS_SECRET_ACCESS_KEY" not in settings:
        raise ValueError(f"AWS_ACCESS_KEY_ID{whose} is set, and AWS_SECRET_ACCESS_KEY is not")


def _is_host(host: str) -> bool:
    """Return whether this is a name or an address. What ends in a number or has a colon is an address."""
    if ":" not in host and not re.search(r"(^|\.)(\d+|0x[0-9a-f]*)\.?$", host):
        return re.fullmatch(r"(?!xn--)[\w.~-]+", host) is not None
    try:
        ipaddress.ip_address(host if "%" not in host else "")  # a zone (fe80::1%eth0) is not for URLs
    except ValueError:
        return False
    return True


def _require_endpoint(name: str, value: str) -> None:
    expected = f"{name} must be like https://minio.example:9000, got {'...' if '@' in value else value}"
    scheme = re.match(r"https?://", value, re.IGNORECASE)
    if not scheme:
        raise ValueError(f"{expected}: it begins with neither https:// nor http://")
    try:
        parts = urllib.parse.urlsplit(value)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise ValueError(f"{expected}: its port or host is not valid") from None
    if not host or port == 0 or not _is_host(host):
        raise ValueError(f"{expected}: its port or host is not valid")
    if "?" in value or "#" in value:
        raise ValueError(f"{expected}: nothing comes after its host, port and path")
    if parts.scheme == "http" and "AWS_ALLOW_HTTP" not in os.environ:
        raise ValueError(f"{expected}: http:// is used only if AWS_ALLOW_HTTP=true is set")
