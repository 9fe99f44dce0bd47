"""Files that a killed writer left unfinished. No listing shows them."""

import os
import re
from collections.abc import Iterable

from distsim.specs import PATTERN
from distsim.store import Storage
from distsim.verify.report import LEFTOVER, Finding

_STAGED = re.compile(r"(?P<object>.+)#[1-9]\d*")  # an unfinished file, which does not have its name yet
_NUMBERED = r"(?:COMMIT|DROPPED)(?:-[1-9]\d{0,8})?\.json"
# What distsim writes, by its path within the store's folder and within a problem's.
_WRITTEN_BESIDE = re.compile(
    r"lease/\d+\.(?:json|beat)|control/\d+\.json|report\.html|figures/[^/]+\.(?:json|png|pdf|svg)|probe-[0-9a-f]{32}"
)
_WRITTEN = re.compile(
    r"(?:spec|request|layers)\.json|(?:behaviour|metrics)/[^/]+\.json|pairs/[^/]+/(?:se/)?[^/]+\.json"
    r"|(?:pair_)?results/[^/]+\.(?:json|csv|parquet|png|pdf)"
    rf"|{PATTERN}/(?:(?:(?:activations|logits)/)?(?:{_NUMBERED}|attempt-(?:[1-9]\d{{0,8}}-)?[0-9a-f]{{12}}/.+)"
    r"|epoch/[0-9a-f]{64}[^/]*|(?:comparison|chance|null|se)/[^/]+/[^/]+\.json)"
)


def unlisted(storage: Storage, problem: str, but: Iterable[str] = ()) -> list[Finding]:
    """Return findings for unfinished files of distsim's own in a local folder, which no listing shows.

    A file of the user's whose name ends in # and digits is none of them. but : folders to leave out
    """
    findings = []
    written = _WRITTEN if problem else _WRITTEN_BESIDE
    for folder, folders, files in os.walk(storage.folder) if storage.folder is not None else ():
        if folder == str(storage.folder):
            folders[:] = [name for name in folders if name not in but]
        for staged in filter(None, map(_STAGED.fullmatch, files)):
            path = os.path.relpath(os.path.join(folder, staged[0]), storage.folder)
            if written.fullmatch(path.rpartition("#")[0]):
                findings.append(Finding(problem, path, path, "is an unfinished file", LEFTOVER))
    return findings
