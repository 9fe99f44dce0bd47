"""Credentials of a profile, where the environment has none."""

from pathlib import Path

import pytest

from distsim.store import aws

CREDENTIALS = """
[default]
aws_access_key_id = AKIADEFAULT
aws_secret_access_key = one%two
[other]
aws_access_key_id = AKIAOTHER
aws_secret_access_key = three
aws_session_token = four
"""
CONFIG = """
[default]
region = eu-central-1
[profile sso]
sso_start_url = https://example.org
region = us-east-1
[profile keys]
aws_access_key_id = AKIACONFIG
aws_secret_access_key = five
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "PROFILE", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("SHARED_CREDENTIALS_FILE", "CONFIG_FILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(CREDENTIALS)
    (tmp_path / ".aws/config").write_text(CONFIG)
    return tmp_path


def test_the_default_profile() -> None:
    keys = {"aws_access_key_id": "AKIADEFAULT", "aws_secret_access_key": "one%two", "aws_region": "eu-central-1"}
    assert aws.config() == keys


def test_a_named_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "other")
    keys = {"aws_access_key_id": "AKIAOTHER", "aws_secret_access_key": "three", "aws_session_token": "four"}
    assert aws.config() == keys
    monkeypatch.setenv("AWS_PROFILE", "keys")
    assert aws.config() == {"aws_access_key_id": "AKIACONFIG", "aws_secret_access_key": "five"}


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert "aws_region" not in aws.config()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    assert aws.config() == {}


@pytest.mark.parametrize(
    "text", ["", "[default]\nregion = x\n", "no section", "[default]\naws_access_key_id = x\n", "\0"]
)
def test_what_has_no_keys_gives_none(home: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".aws/credentials").write_text(text)
    assert aws.config() == {}
    monkeypatch.setenv("AWS_PROFILE", "sso")
    assert aws.config() == {}
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert aws.config() == {}


def test_other_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "elsewhere").write_text(CREDENTIALS.replace("AKIADEFAULT", "AKIAELSE"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "elsewhere"))
    assert aws.config()["aws_access_key_id"] == "AKIAELSE"


def test_a_silent_metadata_service_is_explained() -> None:
    reason = "Error performing PUT http://169.254.169.254/latest/api/token in 16.2s, after 2 retries"
    assert aws.explained(reason).startswith("no credentials were found: set AWS_ACCESS_KEY_ID")
    assert aws.explained("the bucket does not exist") == "the bucket does not exist"
