"""What an object store's errors mean, in a sentence that says what to look at and repeats no credentials."""

import os
import re

# The codes of S3's answers; servers of other makes give the same.
CODES = {
    "SignatureDoesNotMatch": "the secret key does not belong to the access key: check AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "the server does not know the access key: check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "ExpiredToken": "the session token has expired: get new keys with a new AWS_SESSION_TOKEN",
    "TokenRefreshRequired": "the session token has expired: get new keys with a new AWS_SESSION_TOKEN",
    "InvalidToken": "the session token does not belong to the keys: check AWS_SESSION_TOKEN, or unset it",
    "RequestTimeTooSkewed": "the clock of this machine is wrong: set it",
    "RequestExpired": "the clock of this machine is wrong: set it",
    "AccessDenied": "the key may not do this",
    "NoSuchBucket": "the bucket does not exist: check its name, and AWS_ENDPOINT_URL",
    "InvalidBucketName": "the server does not take this as the name of a bucket",
    "PermanentRedirect": "the bucket is in another region: set AWS_REGION",
    "TemporaryRedirect": "the bucket is in another region: set AWS_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set AWS_REGION",
    "IllegalLocationConstraintException": "the bucket is in another region: set AWS_REGION",
    "SlowDown": "the server asks to slow down",
}
# With these nothing at all is allowed, whatever the key might do.
_UNKNOWN_KEY = re.compile(
    r"<Code>\s*(SignatureDoesNotMatch|InvalidAccessKeyId|\w*Token|TokenRefreshRequired|RequestTimeTooSkewed|RequestExpired)"
)

# Where obstore asks for credentials if it has none: the metadata service of a machine in a cloud.
METADATA = ("latest/api/token", "latest/meta-data/iam", "169.254.169.254", "169.254.170.2", "computeMetadata")
NO_CREDENTIALS = {
    "GCS": "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account, or run `gcloud auth "
    "application-default login`",
    "MicrosoftAzure": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_SAS_TOKEN",
    "S3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile in ~/.aws/credentials that has "
    "keys (for SSO: `aws configure export-credentials --format env`)",
}

# What the lines that obstore adds for debugging say of a connection -> what it means, about a HOST.
CONNECTIONS = {
    r"BadScheme": "the endpoint HOST is http://, which is used only if AWS_ALLOW_HTTP=true is set",
    r"dns error": "there is no host HOST, or no network: check AWS_ENDPOINT_URL and AWS_REGION",
    r"ConnectionRefused": "nobody listens at HOST: check AWS_ENDPOINT_URL",
    r"InvalidContentType|InvalidMessage|WRONG_VERSION": "HOST does not speak TLS: perhaps its endpoint is http://",
    r"InvalidCertificate|UnknownIssuer": "the certificate of HOST is not trusted",
    r"NetworkUnreachable|HostUnreachable": "HOST cannot be reached from here: check AWS_ENDPOINT_URL and the network",
    r"TimedOut|kind: Timeout": "HOST gave no whole answer in time",
}


def explained(text: str) -> str:
    """Return in a sentence what the text of an error says that obstore, or a local file system, raised."""
    line = first_line(text)
    if any(address in line for address in METADATA):
        kind = next((kind for kind in NO_CREDENTIALS if f"Generic {kind} error" in line), "S3")
        return f"no credentials were found: {NO_CREDENTIALS[kind]}; on a machine in its cloud give it a role"
    if "Account must be specified" in line:
        return f"no account was found: {NO_CREDENTIALS['MicrosoftAzure']}"
    if code := re.search(r"<Code>\s*(\w+)\s*</Code>", text):
        return f"{CODES.get(code[1]) or _message(text) or 'the server refuses'} ({code[1]}){_region(text)}"
    if "redirect without LOCATION" in line:
        return CODES["PermanentRedirect"]
    if "HTTP error" in line:
        for pattern, sentence in CONNECTIONS.items():
            if re.search(pattern, text):
                return sentence.replace("HOST", _host(text))
    if answer := re.search(r"status code: (\d+ [\w -]+)", line):
        return f"{_host(text)} answers {answer[1].strip()}"
    if local := _LOCAL.fullmatch(line):
        return local["python"] or local["obstore"]
    return masked(line)


def _message(text: str) -> str:
    found = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
    return masked(" ".join(found[1].split()).rstrip(".")) if found else ""


def _region(text: str) -> str:
    found = re.search(r"<Region>\s*([\w-]+)\s*</Region>", text) or re.search(r"expecting '([\w-]+)'", text)
    return f"; it is in {found[1]}" if found else ""


def _host(text: str) -> str:
    found = re.search(r"https?://(?:\S*@)?([^/?#\s,]+)", text)
    return found[1] if found else "the endpoint"


def masked(text: str) -> str:
    """Return the text with "..." in the place of credentials: those of the environment, and those in an endpoint."""
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= 8:
            text = text.replace(value, "...")
    return re.sub(r"(https?://)\S*@", r"\1...@", text)


def first_line(text: str) -> str:
    """Return the first line of an error. It says what happened; obstore adds many lines about its internals."""
    return text.strip().splitlines()[0] if text.strip() else ""


def no_space(text: str) -> bool:
    """Return whether an error's text says that there is no room. Errors of other processes arrive as text only."""
    return _NO_SPACE.search(text) is not None


def not_allowed(text: str) -> bool:
    """Return whether an error's text says that one may not write, though one may perhaps read."""
    no_credentials = any(address in first_line(text) for address in METADATA)
    return _NOT_ALLOWED.search(text) is not None and not _UNKNOWN_KEY.search(text) and not no_credentials


def busy(text: str) -> bool:
    """Return whether an object store answered, with an error of its own (5xx) that may pass."""
    return _BUSY.search(text) is not None


# The operating system's reason, without its number and without the names that a file has while it is written.
_LOCAL = re.compile(
    r"\[Errno \d+\] (?P<python>[^:]+?)(?:: .*)?|Generic LocalFileSystem error: .*: (?P<obstore>[^:]+) \(os error \d+\)"
)
_BUSY = re.compile(r"status code: 5(?!01)")
_NO_SPACE = re.compile(
    r"no space left|disk quota exceeded|QuotaExceeded|StorageFull|Insufficient Storage", re.IGNORECASE
)
_NOT_ALLOWED = re.compile(r"read-only file system|permission denied|AccessDenied|status code: 403", re.IGNORECASE)
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|ACCOUNT_KEY|SAS", re.IGNORECASE)
