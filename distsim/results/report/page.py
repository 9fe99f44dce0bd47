"""The report as one HTML file that needs no network."""

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape as text
from importlib.resources import files
from string import Template
from typing import Any

from distsim._version import __version__
from distsim.results.claims.judging import check
from distsim.results.claims.study import Verdict
from distsim.results.published import Published
from distsim.results.reduce import joined
from distsim.results.report import parts
from distsim.results.report.arrays import payload
from distsim.results.report.sentences import findings
from distsim.specs import digest


@dataclass(frozen=True)
class Library:
    """A library of others that is part of the page."""

    name: str
    version: str
    licence: str
    file: str
    sha256: str


LIBRARIES = (
    Library("D3", "7.9.2", "ISC", "d3.min.js", "912111098ea99503a6f4967361d2bbdc9dbf58cf9c678c8e27e5b02d1a07f0c1"),
    Library(
        "Observable Plot",
        "0.6.17",
        "ISC",
        "plot.umd.min.js",
        "4358086467740777dd788d6b27a95cebdbaefdd50c730a3060117073bd7134cb",
    ),
)
SCRIPTS = ("numbers.js", "charts.js", "tables.js", "page.js")
_SEAL = re.compile(rb"<!-- SHA-256 of everything above: ([0-9a-f]{64}) -->\n\Z")


def verdicts_of(studies: Sequence[Published]) -> list[Verdict]:
    """Judge all claims by the tables of these studies together, as some claims are about several problems."""
    tables = joined([study.tables for study in studies])
    return check(tables, {study.problem: study.images for study in studies})


def html(studies: Sequence[Published], verdicts: Sequence[Verdict]) -> bytes:
    """Return the report of studies of different problems. Equal studies give equal bytes.

    verdicts : as `verdicts_of` returns them
    """
    scripts = [_asset(f"vendor/{library.file}") for library in LIBRARIES] + [_asset(name) for name in SCRIPTS]
    fields = {
        "policy": _policy(scripts),
        "title": text(" · ".join(study.problem for study in studies)),
        "style": _asset("report.css"),
        "front": _each(studies, lambda study: parts.front(study, findings(study, verdicts))),
        "claims": _each(studies, lambda study: parts.claims(study, verdicts)),
        "missing": _each(studies, parts.missing),
        "how": _each(studies, parts.how),
        "version": text(__version__),
        "made_from": _made_from({study.problem: study.made_from for study in studies}),
        "libraries": text(", ".join(f"{one.name} {one.version}" for one in LIBRARIES)),
        "licences": text(_asset("vendor/LICENSES.txt")),
        "data": _data({"problems": [payload(study) for study in studies]}),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    return sealed(Template(_asset("page.html")).substitute(fields).encode())


def sealed(page: bytes) -> bytes:
    """Return a page with its digest in the last line."""
    return page + f"<!-- SHA-256 of everything above: {hashlib.sha256(page).hexdigest()} -->\n".encode()


def intact(content: bytes) -> bool:
    """Return whether a report is what was written, by the digest in its last line."""
    seal = _SEAL.search(content)
    return seal is not None and hashlib.sha256(content[: seal.start()]).hexdigest() == seal[1].decode()


def is_of(content: bytes, made_from: Mapping[str, str]) -> bool:
    """Return whether a report is what was written, and of these stores. made_from : problem -> as of its `Published`"""
    said = _made_from(made_from).encode()
    return bool(said) and said in content and intact(content)


def ours(content: bytes) -> bool:
    """Return whether distsim has written a report, which may be damaged since."""
    return b'name="generator" content="distsim ' in content or _SEAL.search(content) is not None


def _made_from(stores: Mapping[str, str]) -> str:
    """Return the element that says what a report is made from; nothing of what is not a store with its tables."""
    known = stores and all(stores.values())
    return f'\n<meta name="made-from" content="{digest(dict(stores))}">' if known else ""


def _asset(name: str) -> str:
    return files("distsim.results.report").joinpath("assets", name).read_text(encoding="utf-8")


def _each(studies: Sequence[Published], part: Any) -> str:
    """Return a part for each study. The script shows that of the chosen problem, and without it all are shown."""
    return "".join(f'<div data-problem="{text(study.problem)}">{part(study)}</div>' for study in studies)


def _policy(scripts: Sequence[str]) -> str:
    """Return the Content-Security-Policy: these scripts, styles of the page itself, and nothing from elsewhere."""
    hashes = " ".join(f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def _data(content: dict[str, Any]) -> str:
    """Return JSON in which no text can end the element that holds it."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
