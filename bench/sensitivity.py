"""How much do similarities depend on choices that the papers leave open? Networks of a store, measured again.

    python bench/sensitivity.py STORE --out FOLDER --data folder:PATH
    python bench/sensitivity.py STORE --out FOLDER --runs 0 1 --iterations 1 10 20 --draws 7 8
    python bench/sensitivity.py STORE --out FOLDER --summary

Sensitivity. Activations are computed from the stored weights, on the study's probe and on others, and every choice is
measured beside the study's own:

    mean CCA     mean of the leading correlations that hold 98 % of their sum; divided by columns instead of rank
    SVCCA        leading directions of 95 % and 99.9 % of the variance (the study's: 99 %); 98 % of the sum
    PWCCA        weights of the pruned network, of the side of smaller rank, of google/svcca (the study's: the complete
                 network)
    CKA          the unbiased estimate; rows are pixels of examples, columns are channels
    NBS          rows are pixels of examples, columns are channels
    all of these, and unbiased CKA:
                 the probe thinned out to 500 and 1,000 images; other draws of as many images as the probe has;
                 activations in float32 where the study rounds to float16, and in float16 where it does not

A smaller probe is every n-th image of the study's: the first 500 may all be of one class, since images of a folder come
class by class. A layer (n, p) is the same matrix over channels as over examples and has no row for that choice.

FOLDER/sensitivity.parquet has a row for each run, iteration, layer, metric and choice: the value, the study's own
(`baseline`) and the difference. The choice `the study` is the study's own, measured again, beside the value in the
store. FOLDER/sensitivity.md is the summary. The table is written after each comparison. The same command goes on where
it was interrupted, and other runs, iterations or draws are added. The store is only read.

The study's own choices come first, the other draws last, so that an early end leaves whole choices. A comparison at
n = 5,000 takes some ten seconds of one core for a layer with n features or more. At nice 19 it leaves the machine to
others: nice -n 19 python bench/sensitivity.py ...
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pandas as pd
import torch
from sensitivity_summary import STUDY, as_table, summarise

import distsim
from distsim.activations.layout import storage_dtype
from distsim.activations.probe import Probe, held, layer_shapes
from distsim.api.network import StudyNetwork
from distsim.cli.output import print_line, reported
from distsim.comparison.layer import InMemory, Reference, Result
from distsim.data import Dataset, load, probe_indices
from distsim.environment import threads
from distsim.metrics.pwcca import from_pair as pwcca
from distsim.metrics.registry import METRICS, Metric, register
from distsim.metrics.svcca import from_pair as svcca
from distsim.models import Layer
from distsim.specs import PAPER_METRICS

ITERATIONS = (1, 5, 10, 15, 20)
SIZES, DRAWS = (500, 1000), (1, 2, 3)
# metric, choice, name in the registry
CHOICES = (
    ("mean_cca", "98 % of the sum", "mean_cca_mass98"),
    ("mean_cca", "of columns", "mean_cca_columns"),
    ("svcca", "98 % of the sum", "svcca_mass98"),
    ("svcca", "95 % of the variance", "svcca_95"),
    ("svcca", "99.9 % of the variance", "svcca_999"),
    ("pwcca", "weights of the pruned network", "pwcca_second"),
    ("pwcca", "weights of the smaller side", "pwcca_smaller"),
    ("pwcca", "weights of google/svcca", "pwcca_google"),
    ("cka", "unbiased", "cka_unbiased"),
    ("cka", "over channels", "cka_channels"),
    ("nbs", "over channels", "nbs_channels"),
)
OVER_CHANNELS = "over channels"
EVERYWHERE = (*PAPER_METRICS, "cka_unbiased")  # what is measured for every probe and dtype
OURS = (
    Metric("svcca_95", "channels", partial(svcca, variance=0.95)),
    Metric("svcca_999", "channels", partial(svcca, variance=0.999)),
    Metric("pwcca_second", "channels", partial(pwcca, side="second")),
    Metric("pwcca_smaller", "channels", partial(pwcca, side="smaller")),
)
COLUMNS = ["problem", "run", "iteration", "position", "layer", "kind", "metric", "choice"]


def main(arguments: Sequence[str] | None = None) -> int:
    flags = _parser().parse_args(arguments)
    return reported(lambda: _run(flags))


def _run(flags: argparse.Namespace) -> None:
    table = Growing(flags.out)
    if not flags.summary:
        started = time.perf_counter()
        with threads(1):
            measure(Networks(flags), table, flags)
        print_line(f"{time.perf_counter() - started:,.0f} s in all; table in {table.file}")
    if table.rows.empty:
        raise ValueError(f"there is no {table.file}; run this without --summary first")
    text = as_table(summarise(table.rows)).markdown()
    table.file.with_suffix(".md").write_text(text + "\n")
    print_line(f"\n{text}")


# --- what is measured ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """The images and the dtype of activations; the choices of formula are all measured under `STUDY`."""

    choice: str
    indices: np.ndarray
    dtype: str = ""  # "": as the study stores each layer

    def has(self, layer: Layer, rule: str) -> bool:
        """Say whether it can differ from the study's for this layer."""
        return self.dtype != storage_dtype(layer, rule)


class Failed(TypedDict):
    """What takes the place of a `Result` where activations are not finite."""

    value: None
    reason: str


class Networks:
    """The chosen networks of a store, their layers, their data."""

    def __init__(self, flags: argparse.Namespace) -> None:
        study = distsim.open(flags.store)
        _keep_out(study.storage, flags.out)
        self.complete = study.network(problem=flags.problem)
        self.identity = self.complete.store.identity()
        self.problem = self.identity.problem
        runs, held = flags.runs or [0], self.complete.store.contents().networks
        there = {(network.run, network.iteration) for network in held}
        asked = flags.iterations or [i for i in ITERATIONS if all((run, i) in there for run in runs)]
        self.pruned = {(run, i): study.network(run, i, self.problem.name) for run in runs for i in asked}
        layers = {layer.name: (place, layer) for place, layer in enumerate(self.complete.model.layers)}
        if unknown := set(flags.layers or ()) - set(layers):
            raise ValueError(f"there are no layers {sorted(unknown)}; {self.problem.name} has {', '.join(layers)}")
        self.layers = {name: layers[name] for name in layers if name in (flags.layers or layers)}
        self.shapes = layer_shapes(self.complete.model, self.problem)
        results = study.results
        self.stored = results[results["problem"] == self.problem.name]
        self.dataset = self._load(flags.data)

    def _load(self, location: str | None) -> Dataset:
        request = self.complete.store.request()
        dataset = load(self.problem, request.data if location is None else location, reading=request.reading)
        if dataset.digest != self.identity.data_digest:
            raise ValueError(f"--data: these are not the data that {self.problem.name} was trained on")
        return dataset

    def activations(self, network: StudyNetwork, name: str, setting: Setting) -> np.ndarray:
        """Return a layer's activations for the setting's images, (n, h, w, c) or (n, p)."""
        assert self.problem.recipe.normalise is not None
        mean, sd = (torch.tensor(values, dtype=torch.float32) for values in self.problem.recipe.normalise)
        images = torch.from_numpy(self.dataset.train_images[setting.indices])
        layer = self.layers[name][1]
        rule = "float32" if setting.dtype else self.identity.storage
        values = held(
            network.model, Probe(setting.indices, images, mean, sd), layer, self.shapes[name], rule, network.which.label
        )
        return values.numpy().astype(setting.dtype or values.numpy().dtype, copy=False)

    def of_study(self, run: int, iteration: int, layer: str, metric: str) -> float:
        """Return the value in the store's tables, nan if they have none."""
        stored = self.stored
        at = (stored["run"] == run) & (stored["iteration"] == iteration)
        rows = stored.loc[at & (stored["layer"] == layer) & (stored["metric"] == metric), "value"]
        return float(rows.iloc[0]) if len(rows) else float("nan")


def settings(networks: Networks, flags: argparse.Namespace) -> Iterator[Setting]:
    """Yield the study's own setting first, then the smaller probes, the dtypes and the other draws."""
    problem, dataset, seed = networks.problem, networks.dataset, networks.identity.seed
    own = probe_indices(dataset, problem.probe, problem.probe_rule, seed)
    yield Setting(STUDY, own)
    for size in SIZES if flags.sizes is None else flags.sizes:
        if size < len(own):
            yield Setting(f"probe {size:,}", own[np.arange(size) * len(own) // size])
    for dtype in ("float32", "float16"):
        yield Setting(dtype, own, dtype)
    for draw in DRAWS if flags.draws is None else flags.draws:
        yield Setting(f"draw {draw}", probe_indices(dataset, len(own), "uniform", draw))


def measure(networks: Networks, table: "Growing", flags: argparse.Namespace) -> None:
    """Compare whatever the table lacks, and write the table after each comparison."""
    for metric in OURS:
        register(metric)
    table.belongs_to(networks.identity.hash)
    rule = networks.identity.storage
    for setting in settings(networks, flags):
        names = EVERYWHERE if setting.choice != STUDY else (*PAPER_METRICS, *(name for _, _, name in CHOICES))
        for layer, (_, described) in networks.layers.items():
            reference = None
            for at, network in networks.pruned.items():
                if table.has(*at, layer, setting.choice) or not setting.has(described, rule):
                    continue
                started = time.perf_counter()
                try:
                    reference = reference or Reference(_source(networks, networks.complete, layer, setting), names)
                    results = reference.compare(_source(networks, network, layer, setting))
                except FloatingPointError as error:  # float16 ends at 65,504
                    results = {name: Failed(value=None, reason=str(error)) for name in _had(networks, layer, names)}
                table.add(_rows(networks, table, (*at, layer), setting.choice, results))
                taken = f"{time.perf_counter() - started:.1f} s"
                print_line(f"{setting.choice}: {layer}, run {at[0]}, iteration {at[1]}: {_said(results)}; {taken}")


def _source(networks: Networks, network: StudyNetwork, layer: str, setting: Setting) -> InMemory:
    return InMemory(networks.activations(network, layer, setting), layer, networks.layers[layer][1].kind)


def _had(networks: Networks, layer: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if METRICS[name].applies_to(networks.layers[layer][1].kind)]


def _said(results: dict[str, Any]) -> str:
    values = {name: results[name]["value"] for name in ("svcca", "cka", "nbs")}
    return ", ".join(f"{name} {'undefined' if value is None else f'{value:.4f}'}" for name, value in values.items())


def _rows(
    networks: Networks, table: "Growing", at: tuple[int, int, str], choice: str, results: dict[str, Result]
) -> list[dict[str, Any]]:
    """Return the table's rows of one comparison."""
    run, iteration, layer = at
    place, described = networks.layers[layer]
    flat = len(networks.shapes[layer]) == 1
    rows = []
    for name in (*PAPER_METRICS, "cka_unbiased"):
        if name in results:
            base = networks.of_study(*at, name) if choice == STUDY else table.value(*at, name, STUDY)
            rows.append((name, choice, results[name], base))
    if choice == STUDY:
        for metric, of_formula, name in CHOICES:
            if not (flat and of_formula == OVER_CHANNELS):
                rows.append((metric, of_formula, results[name], _number(results[metric])))
    return [
        {
            **dict(
                zip(
                    COLUMNS,
                    (networks.problem.name, run, iteration, place, layer, described.kind, metric, of),
                    strict=True,
                )
            ),
            "value": _number(result),
            "baseline": base,
            "difference": _number(result) - base,
            "reason": result["reason"],
        }
        for metric, of, result, base in rows
    ]


def _number(result: Any) -> float:
    return float("nan") if result["value"] is None else float(result["value"])


# --- the table -------------------------------------------------------------------------------------------------------


class Growing:
    """The long table in a folder, which is written anew whenever rows are added."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "sensitivity.parquet"
        empty = pd.DataFrame(columns=[*COLUMNS, "value", "baseline", "difference", "reason", "identity"])
        self.rows = pd.read_parquet(self.file) if self.file.exists() else empty
        self.identity = ""

    def belongs_to(self, identity: str) -> None:
        """Say of which sweep the rows are. ValueError: there are rows of another."""
        if others := set(self.rows["identity"]) - {identity}:
            raise ValueError(f"{self.file} is of another sweep ({min(others)[:12]}): choose another --out")
        self.identity = identity

    def has(self, run: int, iteration: int, layer: str, choice: str) -> bool:
        return bool(self._at(run, iteration, layer, choice).any())

    def value(self, run: int, iteration: int, layer: str, metric: str, choice: str) -> float:
        rows = self.rows[self._at(run, iteration, layer, choice) & (self.rows["metric"] == metric)]
        return float(rows["value"].iloc[0])

    def _at(self, run: int, iteration: int, layer: str, choice: str) -> Any:
        rows = self.rows
        network = (rows["run"] == run) & (rows["iteration"] == iteration)
        return network & (rows["layer"] == layer) & (rows["choice"] == choice)

    def add(self, rows: list[dict[str, Any]]) -> None:
        more = pd.DataFrame(rows).assign(identity=self.identity)
        self.rows = pd.concat([self.rows, more], ignore_index=True) if len(self.rows) else more
        self.file.parent.mkdir(parents=True, exist_ok=True)
        aside = self.file.with_suffix(".tmp")
        self.rows.to_parquet(aside, index=False)
        os.replace(aside, self.file)


def _keep_out(storage: str, out: Path) -> None:
    """Raise ValueError if the table would be written into the store."""
    store = Path(storage.removeprefix("file://")).resolve()
    if out.resolve().is_relative_to(store):
        raise ValueError(f"--out {out} is inside the store {store}, which is only read: choose another folder")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="a folder or a URL; it is only read")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table and the summary")
    parser.add_argument("--problem", help="of the store (default: its only one)")
    parser.add_argument("--data", metavar="WHERE", help="as for the sweep scripts (default: where they were last)")
    parser.add_argument("--runs", type=int, nargs="+", metavar="N", help="(default: 0)")
    parser.add_argument(
        "--iterations",
        type=int,
        nargs="+",
        metavar="N",
        help=f"(default: those of {', '.join(map(str, ITERATIONS))} that the store has)",
    )
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="(default: all that are compared)")
    parser.add_argument(
        "--sizes", type=int, nargs="*", metavar="N", help=f"smaller probes (default: {' '.join(map(str, SIZES))})"
    )
    parser.add_argument(
        "--draws",
        type=int,
        nargs="*",
        metavar="SEED",
        help=f"seeds of other probes (default: {' '.join(map(str, DRAWS))})",
    )
    parser.add_argument("--summary", action="store_true", help="measure nothing: print the summary of what is there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
