"""Published studies: the tables of a sweep without its weights and activations.

A published study is a folder. `study.json` says which sweep it is, on which machines its runs were made, and the
SHA-256 of every table. The tables have a column more than those of a store:

    environment  a row of environments.parquet: versions, processor, device and threads that a row was computed with

Complete networks that differ in a bit have other numbers in the column `complete`. networks.parquet also has the
SHA-256 of each network's weights. No column names a host.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from distsim.results.columns import OF_OLDER, TABLES, completed
from distsim.results.nulls import with_nulls
from distsim.results.study_record import VERSION, PartRecord, StudyRecord, read_record
from distsim.results.table_files import read_parquet_bytes, to_parquet_bytes
from distsim.results.tables import Tables
from distsim.specs import Identity, canonical_json
from distsim.store import DamagedStore
from distsim.store.existing import STUDY

LARGEST_TABLE = 2**28
ENVIRONMENT = ("device", "instruction_set", "blas", "machine", "threads", "torch", "numpy", "python", "distsim", "code")
KEYS = {  # of the tables with measured values
    "results": ["complete", "control", "run", "iteration", "layer", "metric"],
    "networks": ["complete", "control", "run", "iteration"],
    "chance": ["complete", "control", "run", "iteration", "layer", "metric", "permutation"],
    "functional": ["complete", "control", "run", "iteration", "class"],
}


@dataclass(frozen=True)
class Published:
    """A published study of one problem."""

    identity: Identity
    tables: Tables  # similarities, networks, chance and functional with the column `environment`
    environments: pd.DataFrame  # one row for each number in the columns `environment`, from 0
    parts: tuple[PartRecord, ...]  # by their numbers in the columns `complete`
    images: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    made_from: str = ""  # of a store: what its tables were made from (`distsim.results.reduce.made_from`)

    @property
    def problem(self) -> str:
        return self.identity.problem.name


def encoded(study: Published) -> dict[str, bytes]:
    """Return the files of a published study, by name. Equal studies give equal bytes, whatever the versions are."""
    tables = study.tables.by_name.items()
    frames = {name: frame for name, frame in tables if len(frame) or name in OF_OLDER}  # what was not measured has none
    frames["environments"] = study.environments
    files = {f"{name}.parquet": to_parquet_bytes(frame) for name, frame in frames.items()}
    record: StudyRecord = {
        "version": VERSION,
        "identity": study.identity.as_dict(),
        "hash": study.identity.hash,
        "parts": list(study.parts),
        "images": study.images,
        "labels": study.labels,
        "tables": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    text = json.dumps(json.loads(canonical_json(record)), indent=1, sort_keys=True, ensure_ascii=False)
    return files | {STUDY: f"{text}\n".encode()}


def read(folder: Path) -> Published:
    """Read a published study.

    FileNotFoundError: the folder holds none. DamagedStore: a file in it is not what it was; the text names it.
    """
    record, identity = read_record(folder)
    files = {name: f"{name}.parquet" for name in ("environments", *TABLES)}
    later = {name for name in TABLES if name not in OF_OLDER}  # studies that earlier versions wrote lack some
    files = {name: file for name, file in files.items() if name not in later or file in record["tables"]}
    frames = {name: _table(folder / file, record["tables"].get(file)) for name, file in files.items()}
    environments = frames.pop("environments")
    frames = {name: completed(frame, name) for name, frame in frames.items()}
    frames["results"] = with_nulls(frames["results"], frames["chance"])
    parts, images, labels = tuple(record["parts"]), record.get("images", ""), record.get("labels", {})
    tables = Tables.named(frames)
    if "functional" not in frames:
        empty = tables.functional.assign(environment=pd.Series(dtype="int64"))
        tables = dataclasses.replace(tables, functional=empty)
    return Published(identity, tables, environments, parts, images, labels)


def _table(file: Path, sha256: str | None) -> pd.DataFrame:
    if not file.is_file():
        raise DamagedStore(f"{file} is missing")
    if file.stat().st_size > LARGEST_TABLE:
        raise DamagedStore(f"{file} is damaged: it has more than {LARGEST_TABLE:,} bytes")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedStore(f"{file} is damaged: its digest is not the one in {STUDY}")
    try:
        return read_parquet_bytes(content)
    except ValueError as error:
        raise DamagedStore(f"{file} is damaged: {error}") from None
