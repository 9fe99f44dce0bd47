"""Making published studies: of what a store holds, and of other studies of the same sweep."""

import dataclasses
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from distsim import plotting
from distsim.metrics.registry import BUILT_IN
from distsim.named_files import write_all
from distsim.problems import PROBLEMS
from distsim.results import figures
from distsim.results.claims.images import remark
from distsim.results.claims.judging import check
from distsim.results.claims.study import Verdict
from distsim.results.columns import TABLES
from distsim.results.published import ENVIRONMENT, KEYS, Published, encoded, read
from distsim.results.reduce import collect, current, made_from
from distsim.results.study_record import PartRecord, read_record
from distsim.results.table_files import to_csv_bytes
from distsim.results.tables import Tables, sorted_by
from distsim.results.titles import titles_of
from distsim.specs import (
    CHOSEN,
    COMPLETE,
    DEFAULT_METRICS,
    MEASURES,
    NULL_PERMUTATIONS,
    Identity,
    Problem,
    Request,
    canonical_json,
    differences,
)
from distsim.store import DamagedStore, SweepStore
from distsim.store.descriptions import labels_of, layers_of
from distsim.store.existing import is_published
from distsim.store.records import weights_of
from distsim.words import counted

# --- from a store ----------------------------------------------------------------------------------------------------


def of_store(store: SweepStore) -> Published:
    """Return the tables of what a store holds, ready to be published.

    FileNotFoundError: it has no complete network.
    """
    if store.mark(COMPLETE) is None:
        raise FileNotFoundError(f"{store.storage.url} has no complete network yet: there is nothing to publish")
    identity = store.identity()
    made, written = made_from(store), current(store)
    tables, provenance = written or collect(store, layers_of(store), identity.seed)
    environments, numbers = _environments(provenance)
    weights = {network: weights_of(mark) for (network, _), mark in store.listed_marks(store.storage.sizes()).items()}
    named = {
        (n.complete, n.control, -1 if n.run is None else n.run, n.iteration): sha256 for n, sha256 in weights.items()
    }
    networks = _with_environment(tables.networks, "networks", provenance, numbers)
    keys = networks.fillna({"run": -1})[["complete", "control", "run", "iteration"]].itertuples(index=False, name=None)
    measured = Tables(
        _with_environment(tables.similarities, "results", provenance, numbers),
        networks.assign(weights=[named[key] for key in keys]),
        tables.summary,
        tables.accuracy,
        _with_environment(tables.chance, "chance", provenance, numbers),
        _with_environment(tables.functional, "functional", provenance, numbers),
        tables.functional_summary,
        tables.reference,
    )
    request = store.request()
    parts = tuple(
        _part(number, named[number, "", -1, 0], identity, request, networks, provenance, numbers)
        for number in sorted(networks["complete"].unique())
    )
    own = [name for name in dict.fromkeys(tables.similarities["metric"]) if name not in BUILT_IN]
    described = remark(store), labels_of(store, own)
    return Published(identity, measured, environments, parts, *described, made if written is not None else "")


def _part(
    number: int,
    weights: str,
    identity: Identity,
    request: Request,
    networks: pd.DataFrame,
    provenance: pd.DataFrame,
    numbers: pd.Series,
) -> PartRecord:
    """Describe the runs of one complete network of a store."""
    rows, made = networks[networks["complete"] == number], provenance[provenance["complete"] == number]
    runs, iterations, controls = _counts(rows)
    part = PartRecord(
        complete=int(number),
        weights=weights,
        runs=runs,
        iterations=iterations,
        command=_command(identity, request, runs, iterations),
        environments=sorted(map(int, numbers[made.index].unique())),
        training_hours=_hours(made, training=True),
        comparison_hours=_hours(made, training=False),
        first=str(made["started"].min()),
        last=str(made["started"].max()),
    )
    return _with_optional(part, int(number), controls)


def _with_optional(part: PartRecord, number: int, controls: int) -> PartRecord:
    """Return a part with the fields that are written only where they say something."""
    if number:
        part["number"] = number
    if controls:
        part["controls"] = controls
    return part


def _counts(networks: pd.DataFrame) -> tuple[int, int, int]:
    """Return how many runs and iterations these networks are, and how many networks of controls are among them."""
    pruned, controls = networks[networks["control"] == ""], int((networks["control"] != "").sum())
    return int(pruned["run"].nunique()), int(networks["iteration"].max()), controls


def _environments(provenance: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Return the table of environments, and the number of each row of the provenance."""
    described = provenance.reindex(columns=list(ENVIRONMENT)).astype("str")
    numbers = described.groupby(list(ENVIRONMENT), sort=False, dropna=False).ngroup()
    return _numbered(described), numbers


def _numbered(described: pd.DataFrame) -> pd.DataFrame:
    """Return each environment once, numbered in the order in which they come."""
    table = described.drop_duplicates().reset_index(drop=True)
    table.insert(0, "environment", range(len(table)))
    return table


def _with_environment(table: pd.DataFrame, name: str, provenance: pd.DataFrame, numbers: pd.Series) -> pd.DataFrame:
    keys = ["complete", "control", "run", "iteration", *(["layer", "metric"] if "layer" in table else [])]
    rows = provenance.assign(environment=numbers)
    rows = rows.loc[rows["table"] == name, [*keys, "environment"]].astype({"run": "Int64"})
    found = table.astype({"run": "Int64"})[keys].merge(rows, on=keys, how="left", validate="many_to_one")
    return table.assign(environment=found["environment"].to_numpy("int64"))


def _hours(provenance: pd.DataFrame, training: bool) -> float:
    """Return the hours that all processes together spent in training, or else in comparisons."""
    pieces = provenance.drop_duplicates(["table", "piece"])
    return round(float(pieces.loc[(pieces["table"] == "networks") == training, "seconds"].sum()) / 3600, 3)


def _command(identity: Identity, request: Request, runs: int, iterations: int) -> str:
    """Return the command that computes these runs. The place of the data is left to the reader, as is a lost script."""
    problem, extent = identity.problem.name, request.extent
    script = Path(request.script).name or (f"sweeps/{problem}.py" if problem in PROBLEMS else "SCRIPT")
    settings = [] if request.script else _settings(identity.problem)
    begin = f"distsim sweep {problem}" if settings else f"python {script}"
    scheme = request.data.partition(":")[0] if ":" in request.data else ""
    flags = [f"--data {scheme}:FOLDER"] if scheme else []
    flags += [*_reduced_by(identity.problem), f"--runs {runs}", f"--iterations {iterations}"]
    flags += [f"--complete {extent.complete}"] if extent.complete > 1 else []
    flags += [f"--control {' '.join(extent.control) or 'none'}"]
    flags += [f"--control-runs {extent.control_runs}"] if extent.control else []
    flags += [f"--metrics {' '.join(extent.metrics)}"] if extent.metrics != DEFAULT_METRICS else []
    flags += [f"--measure {' '.join(extent.measure) or 'none'}"] if extent.measure != MEASURES else []
    flags += [f"--permutations {extent.permutations}"] if extent.permutations != NULL_PERMUTATIONS else []
    flags += ["--no-chance"] if not extent.chance else []
    flags += [f"--threads {identity.threads}", f"--device {request.device}"]
    usual = {field.name: field.default for field in dataclasses.fields(identity)}
    for name in CHOSEN:
        if (value := getattr(identity, name)) != usual[name] and name != "threads":
            flags.append(f"--{name}" if value is True else f"--{name} {value}")
    flags += ["--activations memory"] if extent.activations == "memory" else []
    flags += [f"--set {shlex.join(settings)}"] if settings else []
    return " ".join([begin, *flags, "--storage STORE"])


def _reduced_by(problem: Problem) -> list[str]:
    """Return the flags that make this problem of the paper's of the same name."""
    if (ours := PROBLEMS.get(problem.name)) is None:
        return []
    usual = _reduction(ours)
    return [
        f"--{name.replace('_', '-')} {value}" for name, value in _reduction(problem).items() if value != usual[name]
    ]


def _reduction(problem: Problem) -> dict[str, Any]:
    """Return the arguments of `Problem.reduced_to` that make such a problem."""
    return {
        "epochs": problem.recipe.epochs,
        "train_limit": problem.train_limit,
        "probe": problem.probe,
        "probe_from": problem.probe_from,
    }


def _settings(problem: Problem) -> list[str]:
    """Return what --set gets to make this problem of the paper's of the same name, beside the flags that reduce it."""
    if (ours := PROBLEMS.get(problem.name)) is None:
        return []
    reduced = ours.reduced_to(**_reduction(problem))
    found: list[str] = []
    for part in ("recipe", "pruning"):
        before, now = getattr(reduced, part), getattr(problem, part)
        names = (field.name for field in dataclasses.fields(now))
        changes = {name: getattr(now, name) for name in names if getattr(now, name) != getattr(before, name)}
        if ours.recipe.normalise is None:
            changes.pop("normalise", None)  # it is computed from the images
        found += [f"{part}.{name}={_as_setting(value)}" for name, value in changes.items()]
    return found


def _as_setting(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


# --- joining ---------------------------------------------------------------------------------------------------------


def merge(studies: Sequence[Published], names: Sequence[str]) -> Published:
    """Join the tables of several studies of one sweep. names : of the studies, for messages

    Runs that start from equal complete networks, bit by bit, are runs of one complete network. What two studies both
    have is taken from the first. ValueError: they are of different sweeps, or the same network has other weights.
    """
    first = studies[0]
    for study, name in zip(studies, names, strict=True):
        if study.identity.hash != first.identity.hash:
            fields = differences(first.identity.as_dict(), study.identity.as_dict())
            here = "; ".join(fields).replace("asked for", f"in {names[0]}").replace("in the store", f"in {name}")
            raise ValueError(f"{name} is of another sweep than {names[0]}: {here}")
    numbers: dict[str, int] = {}  # of complete networks, by their weights
    for study in studies:
        for part in study.parts:
            numbers.setdefault(part["weights"], len(numbers))
    every = pd.concat([study.environments for study in studies], ignore_index=True)
    environments = _numbered(every[list(ENVIRONMENT)])
    renumbered = [_renumbered(study, numbers, environments) for study in studies]
    frames = {name: _joined(name, [tables[name] for tables in renumbered], names) for name in KEYS}
    parts = tuple(_joined_part(studies, weights, number, frames, environments) for weights, number in numbers.items())
    tables = Tables.of(
        frames["results"],
        frames["networks"],
        first.identity.seed,
        frames["chance"],
        frames["functional"],
        _references(studies, numbers),
    )
    labels = {name: label for study in reversed(studies) for name, label in study.labels.items()}
    images = "; ".join(dict.fromkeys(study.images for study in studies if study.images))
    return Published(first.identity, tables, environments, parts, images, labels)


def _references(studies: Sequence[Published], numbers: Mapping[str, int]) -> pd.DataFrame:
    """Return the reference levels of all studies, with the joined study's numbers of complete networks."""
    frames = []
    for study in studies:
        complete = {part["complete"]: numbers[part["weights"]] for part in study.parts}
        frame = study.tables.reference
        sides = {name: frame[name].map(complete).astype("int64") for name in ("complete_x", "complete_y")}
        frames.append(frame.assign(**sides))
    keys = ["problem", "complete_x", "complete_y", "position", "metric"]
    return sorted_by(pd.concat(frames, ignore_index=True).drop_duplicates(keys), keys)


def _renumbered(study: Published, numbers: Mapping[str, int], environments: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return a study's tables with the joined study's numbers of complete networks and environments."""
    complete = {part["complete"]: numbers[part["weights"]] for part in study.parts}
    joined = study.environments.merge(environments, on=list(ENVIRONMENT), suffixes=("", "_joined"))
    environment = dict(zip(joined["environment"], joined["environment_joined"], strict=True))
    measured = {name: study.tables.by_name[name] for name in KEYS}
    return {
        name: frame.assign(
            complete=frame["complete"].map(complete).astype("int64"),
            environment=frame["environment"].map(environment).astype("int64"),
        )
        for name, frame in measured.items()
    }


def _joined(name: str, frames: Sequence[pd.DataFrame], names: Sequence[str]) -> pd.DataFrame:
    keys, merged = KEYS[name], frames[0]
    for frame, source in zip(frames[1:], names[1:], strict=True):
        if name == "networks":
            both = merged.merge(frame, on=keys, suffixes=("", "_other"))
            differing = both[both["weights"] != both["weights_other"]]
            if len(differing):
                run, iteration = differing[["run", "iteration"]].iloc[0]
                raise ValueError(
                    f"run {run}, iteration {iteration} has other weights in {source} than in a study before it, though "
                    "both start from the same complete network: only one of them can be part of this study"
                )
        merged = pd.concat([merged, frame], ignore_index=True).drop_duplicates(keys)
    order = ["problem", "complete", "control", "run", "iteration", "class", "position", "metric", "permutation"]
    return sorted_by(merged, [key for key in order if key in merged])


def _joined_part(
    studies: Sequence[Published],
    weights: str,
    number: int,
    frames: Mapping[str, pd.DataFrame],
    environments: pd.DataFrame,
) -> PartRecord:
    """Describe the runs of one complete network in the joined study."""
    parts = [part for study in studies for part in study.parts if part["weights"] == weights]
    networks = frames["networks"][frames["networks"]["complete"] == number]
    ours = {part.get("number", 0) for part in parts}  # equal, unless a sweep had the same complete network twice
    used = set().union(*(frame.loc[frame["complete"] == number, "environment"] for frame in frames.values()))
    runs, iterations, controls = _counts(networks)
    part: PartRecord = {
        "complete": number,
        "weights": weights,
        "runs": runs,
        "iterations": iterations,
        "command": "; ".join(dict.fromkeys(part["command"] for part in parts)),
        "environments": sorted(map(int, used)),
        "training_hours": round(sum(part["training_hours"] for part in parts), 3),
        "comparison_hours": round(sum(part["comparison_hours"] for part in parts), 3),
        "first": min(part["first"] for part in parts),
        "last": max(part["last"] for part in parts),
    }
    return _with_optional(part, min(ours), controls)


# --- writing ---------------------------------------------------------------------------------------------------------


def publish(study: Published, folder: Path) -> list[str]:
    """Write a study's tables, figures and claims into a folder, and return the names of the files.

    A study of the same networks that is there is replaced; other files in the folder are left alone. The files take
    their places when all are on the disk, so whatever ends this leaves the study that was there.
    ValueError: the folder holds something else, or networks that this study lacks; or it cannot be written.
    """
    if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        _require_no_loss(study, folder)
    files = {"claims.csv": to_csv_bytes(claims_table(study))}
    titles = titles_of([study.identity.problem])
    drawn = figures.draw_all(study.tables, study.labels, titles)
    for name, figure in drawn.items():
        files[f"{name}.png"] = plotting.render(figure, "png")
    files |= encoded(study)  # study.json last: until it is written, its digests do not fit the tables
    write_all(folder, files)
    for name in set(map("{}.parquet".format, TABLES)) - set(files):
        (folder / name).unlink(missing_ok=True)
    return sorted(files)


def _require_no_loss(study: Published, folder: Path) -> None:
    """Check that what is published in a folder may be replaced by this study. ValueError: something would be lost."""
    if not is_published(folder):
        raise ValueError(f"{folder} is not empty and holds no published study: name another folder")
    try:
        record, identity = read_record(folder)
    except DamagedStore as error:
        raise ValueError(f"{error}. What else is in this folder would be lost: move it, or name another") from None
    if identity.hash != study.identity.hash:
        fields = differences(study.identity.as_dict(), identity.as_dict())
        here = "; ".join(fields).replace("asked for", "in yours").replace("in the store", "there")
        raise ValueError(f"{folder} holds another study, of another sweep: {here}. Name another folder")
    try:
        lost = len(set(read(folder).tables.networks["weights"]) - set(study.tables.networks["weights"]))
    except DamagedStore as error:  # to publish again is the way to mend it, if that has all that is told of it
        if all(any(_holds(ours, part) for ours in study.parts) for part in record["parts"]):
            return
        raise ValueError(f"{error}. It holds runs that would be lost: move the folder, or name another") from None
    if lost:
        raise ValueError(
            f"{folder} holds {counted(lost, 'network')} that would be lost: name it as a source, too, to join the two"
        )


def _holds(ours: PartRecord, theirs: PartRecord) -> bool:
    """Return whether our runs of a complete network are at least as many and as long as theirs."""
    counts = ((part["runs"], part["iterations"], part.get("controls", 0)) for part in (ours, theirs))
    return ours["weights"] == theirs["weights"] and all(a >= b for a, b in zip(*counts, strict=True))


def claims_table(study: Published) -> pd.DataFrame:
    """Return a row for each claim and metric that is about the study's problem, with the numbers as JSON."""
    verdicts = check(study.tables, {study.problem: study.images})
    rows = [verdict.__dict__ for verdict in verdicts if verdict.problem in (study.problem, "all")]
    frame = pd.DataFrame(rows, columns=list(Verdict.__dataclass_fields__))
    return frame.assign(numbers=frame["numbers"].map(_as_json))


def _as_json(numbers: dict[str, float]) -> str:
    """Return the numbers as JSON. What is not a number is null."""
    return canonical_json({name: value if math.isfinite(value) else None for name, value in numbers.items()})
