"""study.json, which says of a published study which sweep it is. Reading it takes no pandas."""

import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from distsim.specs import Identity
from distsim.specs.fields import Natural
from distsim.specs.json_shape import require_json
from distsim.store import DamagedStore
from distsim.store.commits import Sha256
from distsim.store.existing import STUDY
from distsim.store.records import identity_in
from distsim.store.storage import first_line

VERSION = 1
LARGEST = 2**20  # bytes of study.json


class PartRecord(TypedDict):
    """The runs of one complete network, as study.json describes them."""

    complete: Natural
    number: NotRequired[Natural]  # of the complete network in the sweep that made it, where it is not 0
    weights: Sha256  # of the complete network
    runs: Natural
    iterations: Natural  # of the longest run
    controls: NotRequired[Natural]  # number of networks of controls, where there are any
    command: str  # that computes them
    environments: list[Natural]
    training_hours: float  # of processes, added up
    comparison_hours: float
    first: str  # when the first and the last piece were begun
    last: str


class StudyRecord(TypedDict):
    """The content of study.json."""

    version: Natural
    identity: dict[str, Any]
    hash: Sha256
    parts: list[PartRecord]
    images: NotRequired[str]  # what to say of the images beside claims
    labels: NotRequired[dict[str, str]]  # of metrics that do not come with distsim
    tables: NotRequired[dict[str, Sha256]]


def read_record(folder: Path) -> tuple[Any, Identity]:
    """Read study.json, and return its content and the sweep's identity. The tables are not looked at.

    FileNotFoundError: the folder holds no published study. DamagedStore: the file is not what it was.
    """
    file = folder / STUDY
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no published study: there is no {STUDY} in it")
    if file.stat().st_size > LARGEST:
        raise DamagedStore(f"{file} is damaged: it has more than {LARGEST:,} bytes")
    try:
        record = json.loads(file.read_bytes())
        require_json("", record, StudyRecord)
    except (ValueError, RecursionError) as error:
        raise DamagedStore(f"{file} is damaged: {first_line(error)}") from None
    if record["version"] != VERSION:
        raise DamagedStore(f"{file} was written by another distsim: its version is {record['version']}, not {VERSION}")
    return {"tables": {}} | record, identity_in(record, str(file))
