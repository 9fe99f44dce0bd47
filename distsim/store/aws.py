"""Credentials of S3 that are not in the environment: a profile of ~/.aws, as `aws configure` leaves it."""

import configparser
import os
from pathlib import Path

KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
# Where obstore asks for credentials if it has none: the metadata service of a machine in Amazon's cloud.
METADATA = ("latest/api/token", "latest/meta-data/iam", "169.254.169.254", "169.254.170.2")


def config() -> dict[str, str]:
    """Return keys and region of the profile AWS_PROFILE, or of `default`, for what the environment does not say.

    Profiles without keys of their own (SSO, roles) give nothing.
    """
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    profile = os.environ.get("AWS_PROFILE") or "default"
    keys = _section("AWS_SHARED_CREDENTIALS_FILE", "credentials", profile)
    settings = _section("AWS_CONFIG_FILE", "config", profile if profile == "default" else f"profile {profile}")
    merged = settings | keys
    if not {"aws_access_key_id", "aws_secret_access_key"} <= merged.keys():
        return {}
    found = {name: merged[name] for name in KEYS if name in merged}
    if "region" in merged and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & os.environ.keys():
        found["aws_region"] = merged["region"]
    return found


def _section(variable: str, name: str, section: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        file = Path(os.environ[variable]) if variable in os.environ else Path.home() / ".aws" / name
        parser.read(file)
        return dict(parser[section]) if parser.has_section(section) else {}
    except (OSError, RuntimeError, configparser.Error, UnicodeDecodeError):  # RuntimeError: there is no home
        return {}


def explained(reason: str) -> str:
    """Return the reason of an error; if credentials were looked for in vain, say where they are looked for."""
    if not any(address in reason for address in METADATA):
        return reason
    return (
        "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile in "
        "~/.aws/credentials that has keys (for SSO: `aws configure export-credentials --format env`); on a machine in "
        "Amazon's cloud give it a role"
    )
