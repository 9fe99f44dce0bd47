"""Rows of a published study: their names, where they stand, and what else the study says of them.

run=3,iteration=7,layer=conv1_2,metric=nbs    a row of results.parquet
run=3,iteration=7                             a row of networks.parquet; run=complete for the complete network

`complete=1` names the complete network that the run starts from, where a study has several; `control=retrain` the
control that the run is.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from distsim.results.published import Published
from distsim.results.study_record import PartRecord
from distsim.seeds import numpy_stream
from distsim.specs import NetworkId, shown

NAMED = "run=3,iteration=7,layer=conv1_2,metric=nbs, or for a network's accuracy run=3,iteration=7 or run=complete"
_COMMA = re.compile(
    r",(?=(?:run|iteration|complete|control|layer|metric)=)"
)  # a layer's name may have commas of its own
_MOST = 12  # names in one sentence


@dataclass(frozen=True)
class RowName:
    """The name of a row: a similarity, or without layer and metric a network's accuracy.

    complete : number of the complete network in the study; None: not said
    """

    network: NetworkId
    layer: str = ""
    metric: str = ""
    complete: int | None = None

    @classmethod
    def parse(cls, text: str) -> "RowName":
        """Read a name, its parts in any order. ValueError: it is not a row's name."""
        parts = [part.partition("=") for part in _COMMA.split(text)]
        named = {name: value for name, _, value in parts}
        layer, metric = named.pop("layer", ""), named.pop("metric", "")
        of_network = ",".join(f"{name}={value}" for name, value in named.items())
        if len(named) + bool(layer) + bool(metric) < len(parts) or bool(layer) != bool(metric):
            raise ValueError(f"a row is named {NAMED}; got {shown(text)}")
        try:
            network = NetworkId.parse(of_network)
        except ValueError as error:
            raise ValueError(f"a row is named {NAMED}; got {shown(text)}: {error}") from None
        if layer and network.is_complete:
            raise ValueError(f"{shown(text)}: every network is compared with the complete one, so it has no layers")
        return cls(replace(network, complete=0), layer, metric, network.complete if "complete" in named else None)

    def __str__(self) -> str:
        complete = f",complete={self.complete}" if self.complete else ""
        of_layer = f",layer={self.layer},metric={self.metric}" if self.layer else ""
        return f"{self.network.argument}{complete}{of_layer}"


@dataclass(frozen=True)
class Row:
    """A row of a published study."""

    name: RowName  # with its complete network
    record: Mapping[str, Any]  # column -> value
    environment: Mapping[str, str]  # in which it was computed
    trained_in: tuple[Mapping[str, str], ...]  # environments of its networks, from the complete one on
    weights: Mapping[NetworkId, str]  # network -> SHA-256 of its weights: of these networks

    @property
    def network(self) -> NetworkId:
        return self.name.network

    @property
    def column(self) -> str:
        """Return the name of the column that is to be proven."""
        return "value" if self.name.layer else "accuracy"

    @property
    def value(self) -> float | None:
        """Return the similarity or the accuracy, None if it is missing."""
        value = float(self.record[self.column])
        return None if math.isnan(value) else value

    @property
    def reason(self) -> str:
        """Return why the value is missing, "" if it is not."""
        return str(self.record.get("reason", ""))


# --- finding one -----------------------------------------------------------------------------------------------------


def found(study: Published, name: RowName) -> Row:
    """Return the row of this name. ValueError: there is none; the text says what there is."""
    tables = study.tables
    complete = _complete(study, name)
    name = replace(name, complete=complete)
    networks = tables.networks[tables.networks["complete"] == complete]
    network = name.network
    chain = [network.of_run.network(i) for i in range(network.iteration + 1)] if network.of_run else [network]
    of_chain = {which: record for which in chain if (record := _network(networks, which)) is not None}
    if network not in of_chain:
        raise ValueError(f"{name}: {_of_runs(networks, network)}")
    record = _similarity(tables.similarities, name) if name.layer else of_chain[network]
    environments = {int(row["environment"]): row for row in study.environments.astype("str").to_dict("records")}
    return Row(
        name,
        record,
        environments[int(record["environment"])],
        tuple(environments[int(each["environment"])] for each in of_chain.values()),
        {which: str(each["weights"]) for which, each in of_chain.items()},
    )


def part_of(study: Published, complete: int) -> PartRecord:
    """Return what study.json says of the runs from this complete network."""
    return next(part for part in study.parts if part["complete"] == complete)


def _complete(study: Published, name: RowName) -> int:
    numbers = [part["complete"] for part in study.parts]
    there = ", ".join(f"complete={part['complete']} ({part['weights'][:12]})" for part in study.parts)
    if name.complete is None and len(numbers) > 1:
        raise ValueError(f"{name}: the study has several complete networks; add one of {there}")
    if name.complete is not None and name.complete not in numbers:
        raise ValueError(f"{name}: the study has no such complete network, it has {there}")
    return numbers[0] if name.complete is None else name.complete


def _network(networks: pd.DataFrame, which: NetworkId) -> dict[str, Any] | None:
    of_run = networks["run"].isna() if which.run is None else (networks["run"] == which.run).fillna(False)
    of_run &= networks["control"] == which.control
    rows = networks[of_run & (networks["iteration"] == which.iteration)].to_dict("records")
    return rows[0] if rows else None


def _of_runs(networks: pd.DataFrame, which: NetworkId) -> str:
    """Say which runs there are, or which iterations of the run."""
    networks = networks[networks["control"] == which.control]
    runs = sorted({int(run) for run in networks["run"].dropna()})
    if which.run in runs:
        last = networks.loc[(networks["run"] == which.run).fillna(False), "iteration"].max()
        return f"run {which.run} has iterations up to {last}"
    return f"the study has the runs {_listed(runs)}" if runs else "the study has no runs yet"


def _similarity(similarities: pd.DataFrame, name: RowName) -> dict[str, Any]:
    network = name.network
    rows = similarities[
        (similarities["complete"] == name.complete)
        & (similarities["control"] == network.control)
        & (similarities["run"] == network.run)
        & (similarities["iteration"] == network.iteration)
    ]
    for column, wanted in (("layer", name.layer), ("metric", name.metric)):
        known = list(dict.fromkeys(rows.sort_values("position", kind="stable")[column]))
        rows = rows[rows[column] == wanted]
        if rows.empty:
            of = f" of layer {name.layer}" if column == "metric" else ""
            there = f"there are {_listed(known)}" if known else "nothing of it was compared"
            raise ValueError(f"{name}: there is no {column} {shown(wanted)}{of}; {there}")
    return dict(rows.to_dict("records")[0])


def _listed(names: Collection[Any]) -> str:
    shortened = [*map(str, names)][:_MOST]
    return ", ".join(shortened) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")


# --- several ---------------------------------------------------------------------------------------------------------


def drawn(
    study: Published, count: int, seed: int, among: Collection[tuple[int, NetworkId]] | None = None
) -> list[RowName]:
    """Draw rows at random from results and networks, without repetition, in the tables' order.

    among : (number of the complete network, network) of which rows are drawn; None: all
    ValueError: there are fewer rows.
    """
    names = [
        RowName(
            NetworkId(int(row.run), int(row.iteration), control=row.control), row.layer, row.metric, int(row.complete)
        )
        for row in study.tables.similarities.itertuples()
    ]
    names += [
        RowName(
            NetworkId() if pd.isna(row.run) else NetworkId(int(row.run), int(row.iteration), control=row.control),
            "",
            "",
            int(row.complete),
        )
        for row in study.tables.networks.itertuples()
    ]
    names = [name for name in names if among is None or (name.complete, name.network) in among]
    if count > len(names):
        raise ValueError(f"{count} rows were asked for, and there are {len(names)} to choose from")
    chosen = numpy_stream(seed, "prove", study.identity.hash).choice(len(names), count, replace=False)
    return [names[place] for place in sorted(chosen)]


@dataclass(frozen=True)
class Spread:
    """How far the runs of a study lie apart at a row's iteration, layer and metric, whatever they start from."""

    count: int
    lowest: float
    highest: float
    sd: float  # NaN below two values

    def __str__(self) -> str:
        if not self.count:
            return "no run of the study has a value there"
        if self.count == 1:
            return f"the study has one network of this kind, with {self.lowest:.6g}"
        return f"{self.count} runs of the study have {self.lowest:.6g} to {self.highest:.6g} there, sd {self.sd:.2g}"


def spread(study: Published, name: RowName) -> Spread:
    """Return how far the runs of the study lie apart at this row."""
    table, column = (study.tables.similarities, "value") if name.layer else (study.tables.networks, "accuracy")
    rows = table[(table["iteration"] == name.network.iteration) & (table["control"] == name.network.control)]
    if name.layer:
        rows = rows[(rows["layer"] == name.layer) & (rows["metric"] == name.metric)]
    values = rows[column].dropna()
    return Spread(len(values), float(values.min()), float(values.max()), float(values.std()))
