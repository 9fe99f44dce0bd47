"""Credentials of a profile, where the environment has none."""

import os
from pathlib import Path

import pytest

from distsim.store import aws, reasons, remote

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
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
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


def test_what_a_profile_says_reaches_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"access_key_id": "AKIADEFAULT", "secret_access_key": "one%two", "region": "eu-central-1"}
    assert remote.connect("s3://bucket/prefix").config == {"bucket": "bucket", **keys}
    monkeypatch.setenv("AWS_PROFILE", "sso")
    with pytest.raises(ValueError, match=r"profile sso of ~/\.aws has no keys but sso_start_url"):
        remote.connect("s3://bucket/prefix")


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert "aws_region" not in aws.config()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "too")
    assert aws.config() == {}
    monkeypatch.delenv("AWS_REGION")
    assert aws.config() == {"aws_region": "eu-central-1"}


@pytest.mark.parametrize(
    "text", ["", "[default]\nregion = x\n", "no section", "[default]\naws_access_key_id = x\n", "\0"]
)
def test_what_has_no_keys_gives_none(home: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".aws/credentials").write_text(text)
    assert aws.config().keys() == {"aws_region"}, "no half a pair of keys"


def test_a_profile_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ValueError, match=r"AWS_PROFILE is nobody, and ~/\.aws has no such profile"):
        aws.config()
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert aws.config() == {}


@pytest.mark.parametrize(
    "entry", ["sso_start_url = https://a.example", "credential_process = /bin/false", "source_profile = keys"]
)
def test_a_profile_whose_keys_are_elsewhere(home: Path, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".aws/config").write_text(f"[profile elsewhere]\nrole_arn = arn\n{entry}\n")
    monkeypatch.setenv("AWS_PROFILE", "elsewhere")
    with pytest.raises(ValueError, match=f"has no keys but {entry.split()[0]}.*--format env --profile elsewhere"):
        aws.config()
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/role")
    assert aws.config() == {}


def test_a_profile_of_a_role_of_the_machine(home: Path) -> None:
    (home / ".aws/credentials").unlink()
    (home / ".aws/config").write_text("[default]\nrole_arn = arn\ncredential_source = Ec2InstanceMetadata\n")
    assert aws.config() == {}


def test_a_profile_with_an_endpoint(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".aws/config").write_text("[default]\nendpoint_url = https://minio.example:9000\n")
    assert aws.config()["aws_endpoint_url"] == "https://minio.example:9000"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://other.example")
    assert "aws_endpoint_url" not in aws.config()
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    (home / ".aws/config").write_text("[default]\nendpoint_url = minio.example:9000\n")
    with pytest.raises(ValueError, match="AWS_ENDPOINT_URL of profile default must be like https://"):
        aws.config()


def test_a_key_of_two_lines_in_a_profile(home: Path) -> None:
    (home / ".aws/credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = one\n  two\n")
    with pytest.raises(
        ValueError, match="AWS_SECRET_ACCESS_KEY of profile default has a space, a line break"
    ) as caught:
        aws.config()
    assert "two" not in str(caught.value)


def test_other_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "elsewhere").write_text(CREDENTIALS.replace("AKIADEFAULT", "AKIAELSE"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "elsewhere"))
    assert aws.config()["aws_access_key_id"] == "AKIAELSE"


def test_a_silent_metadata_service_is_explained() -> None:
    reason = "Error performing PUT http://169.254.169.254/latest/api/token in 16.2s, after 2 retries"
    assert reasons.explained(reason).startswith("no credentials were found: set AWS_ACCESS_KEY_ID")
    assert reasons.explained("the bucket is full") == "the bucket is full"
