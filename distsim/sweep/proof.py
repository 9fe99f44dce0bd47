"""Proofs of published rows: the value of a row is computed again from its networks, as a sweep computes it.

In the environment that the row was computed in, the value must be equal bit by bit; on another processor, or with other
versions, to 1e-4. A GPU that need not repeat itself (`Identity.deterministic`) never promises bits.

Networks that were trained again promise less. On another processor they are other networks, so values need not be
equal. Then the runs' own spread says what to expect.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
import torch

from distsim.data import Dataset
from distsim.environment import code_version, environment, threads
from distsim.models import build
from distsim.results.columns import ADDED
from distsim.results.rows import Row
from distsim.specs import Device, Extent, Identity, NetworkId, Sweep, shown
from distsim.store import SweepStore
from distsim.store.records import weights_of
from distsim.sweep.comparison_worker import ComparisonWorker
from distsim.sweep.kept_behaviour import require_recorded_behaviour
from distsim.sweep.order import require_tools
from distsim.training.chain import Trainer
from distsim.training.stepper import settle

WITHIN = 1e-4  # difference of values on another processor
EQUAL, DIFFERS, UNPROMISED = "equal", "differs", "equality is not promised"
Environment = Mapping[str, str]


@dataclass(frozen=True)
class Proof:
    """What came of proving one row."""

    row: Row
    verdict: str  # EQUAL, "equal to ...", DIFFERS or UNPROMISED
    value: float | None = None  # computed here
    reason: str = ""  # why there is none
    remarks: tuple[str, ...] = ()

    @property
    def proven(self) -> bool:
        return self.verdict not in (DIFFERS, UNPROMISED)

    def __str__(self) -> str:
        lines = [f"{self.row.name}: {self.verdict}", f"    in the table  {_written(self.row.value, self.row.reason)}"]
        if self.value is not None or self.reason:
            apart = f", difference {_apart(self):.2g}" if None not in (self.value, self.row.value) else ""
            lines.append(f"    computed      {_written(self.value, self.reason)}{apart}")
        return "\n".join([*lines, *(f"    {remark}" for remark in self.remarks)])


def _apart(proof: Proof) -> float:
    return abs((proof.value or 0.0) - (proof.row.value or 0.0))


def _written(value: float | None, reason: str) -> str:
    return f"no value: {reason}" if value is None else repr(value)


class Networks:
    """The networks of a store, from which rows are computed again on one device. Nothing is written.

    numbers : number of a complete network in the study -> its number in the store; None: the store has one

    ValueError: the device, or a library that a metric needs, is missing. BehaviourChanged: the network, or a metric of
    one's own, is not the one that the store was begun with.
    """

    def __init__(
        self,
        store: SweepStore,
        identity: Identity,
        dataset: Dataset,
        device: Device,
        metrics: tuple[str, ...],
        numbers: Mapping[int, int] | None = None,
    ) -> None:
        require_tools(device, metrics)
        settle(torch.device(device), identity.deterministic)
        self.store, self.identity, self.dataset = store, identity, dataset
        self._numbers = numbers or {}
        self.sweep = Sweep(identity, Extent(1, 1, metrics, activations="memory"), device=device)
        require_recorded_behaviour(store, self.sweep)
        self._worker = ComparisonWorker(store, self.sweep, dataset, allow_drift=True)

    def prove(self, row: Row, retrained: bool = False) -> Proof:
        """Compute a row again and judge it.

        retrained : the networks were trained again, so that their weights may be others

        Errors are those of a comparison, and of reading a store.
        """
        needed = row.network.origin, row.network
        others = [text for which in needed if (text := self._other_weights(row, which))]
        if others and not retrained:
            return Proof(row, DIFFERS, remarks=(others[0],))
        computed = self._similarity(row) if row.name.layer else self._evaluated(self._stored(row, row.network))
        trained_in = row.trained_in if retrained else (row.trained_in[0], row.trained_in[-1])
        elsewhere = self.elsewhere(row.environment, *trained_in)
        proof = self._judged(row, computed, elsewhere, retrained)
        remarks = [*proof.remarks, *others[:1]]
        if not retrained and row.name.layer:
            proof, more = self._with_committed(proof)
            remarks += more
        return Proof(row, proof.verdict, proof.value, proof.reason, tuple(remarks))

    def elsewhere(self, *recorded: Environment) -> str:
        """Return in what this environment differs from these, "" if in nothing that decides a bit."""
        here = {name: str(value) for name, value in environment(self.sweep).items()}
        different = {
            f"{name} is {value} here and was {there.get(name, 'not recorded')}"
            for name, value in here.items()
            for there in recorded
            if there.get(name) != value
        }
        return "; ".join(sorted(different))

    # --- computing ---------------------------------------------------------------------------------------------------

    def _stored(self, row: Row, which: NetworkId) -> NetworkId:
        """Return the name that one of the row's networks has in the store."""
        return replace(which, complete=self._numbers.get(row.name.complete or 0, 0))

    def _similarity(self, row: Row) -> dict[str, Any]:
        network = self._stored(row, row.network)
        layer, metric = row.name.layer, row.name.metric
        known = [each.name for each in build(self.identity.problem).layers]
        if layer not in known:
            raise ValueError(f"the network has no layer {shown(layer)}; it has {', '.join(known)}")
        results: dict[str, Any] = dict(self._worker.measure(network, layer, (metric,)))
        if metric not in results:
            raise ValueError(f"layer {layer} is not measured by {metric}")
        record = self.store.committed(network).values
        return results[metric] | {name: record[name] for name in ("remaining", "remaining_pool")}

    def _evaluated(self, which: NetworkId) -> dict[str, Any]:
        with threads(self.identity.threads):
            return self._trainer.evaluated(self.store.load_network(which))

    @cached_property
    def _trainer(self) -> Trainer:
        return Trainer(self.identity, self.dataset, self.sweep.device)

    # --- judging -----------------------------------------------------------------------------------------------------

    def _other_weights(self, row: Row, which: NetworkId) -> str:
        """Return a sentence if the network has other weights than the study says, else ""."""
        mark = self.store.committed(self._stored(row, which))
        ours, theirs = weights_of(mark), row.weights.get(which, "")
        if ours == theirs:
            return ""
        return f"{which.label} has other weights here: their SHA-256 is {ours[:12]}, in the study {theirs[:12]}"

    def _judged(self, row: Row, computed: Mapping[str, Any], elsewhere: str, retrained: bool) -> Proof:
        value, reason = computed[row.column], computed.get("reason", "")
        repeats = self.sweep.device == "cpu" or self.identity.deterministic
        due = repeats and not elsewhere
        changed = _changed(row, computed) if due else []
        remarks = [f"another environment: {elsewhere}"] if elsewhere else []
        if not repeats:
            remarks.append("on this GPU the sweep need not repeat itself (--deterministic)")
        if (value, reason) == (row.value, row.reason) and not changed:
            verdict = EQUAL
        elif due:
            verdict = DIFFERS
            remarks += [f"{name} is {computed[name]!r} here, and {row.record[name]!r} in the table" for name in changed]
            remarks.append(
                f"by its record this is the environment of the row, where values repeat to the bit{_code(row)}"
            )
        elif retrained:
            verdict = UNPROMISED
        else:
            verdict = self._close(row, value)
        return Proof(row, verdict, value, reason, tuple(remarks))

    def _close(self, row: Row, value: float | None) -> str:
        """Judge a value that another processor computed."""
        if value is None or row.value is None:
            return DIFFERS
        apart, images = abs(value - row.value), len(self.dataset.test_labels)
        if apart <= WITHIN:
            return f"equal to {WITHIN:g}"
        one_image = row.column == "accuracy" and round(apart * images) == 1
        return f"equal to within one image of {images:,}" if one_image else DIFFERS

    def _with_committed(self, proof: Proof) -> tuple[Proof, list[str]]:
        """Compare the row with the value that the store has committed, if it has one."""
        name, row = proof.row.name, proof.row
        network = self._stored(row, name.network)
        marks = self.store.comparisons(of=network).get((network, name.layer), [])
        mark = next((mark for mark in marks if name.metric in mark.values), None)
        if mark is None:
            return proof, []
        committed = mark.values[name.metric]
        same = {key: str(value) for key, value in mark.environment.items()}
        due = all(row.environment[key] == value for key, value in same.items() if key in row.environment)
        equal = (committed["value"], committed["reason"]) == (row.value, row.reason)
        if equal or (not due and self._close(row, committed["value"]) != DIFFERS):
            return proof, []
        text = f"the store has committed {_written(committed['value'], committed['reason'])} for it"
        return Proof(row, DIFFERS, proof.value, proof.reason), [text]


def _changed(row: Row, computed: Mapping[str, Any]) -> list[str]:
    """Return the columns, besides the value and its reason, in which a row differs from what was computed.

    What the value is by chance is compared only where both are from the closed form, and not from permuted examples.
    """
    permuted = computed.get("null") is None or pd.isna(row.record.get("null_sd"))
    left_out = (row.column, "reason", *(("null", "null_sd") if permuted else ()))
    return [
        name
        for name, value in computed.items()
        if name not in left_out
        and not _same(row.record[name], value)
        and not (name in ADDED and pd.isna(row.record[name]))  # of a row that an earlier version wrote
    ]


def _same(written: Any, computed: Any) -> bool:
    if computed is None or (isinstance(computed, float) and math.isnan(computed)):
        return bool(pd.isna(written))
    return bool(not pd.isna(written) and written == computed)


def _code(row: Row) -> str:
    """Say that the row comes from another state of the source, if it does."""
    here, there = code_version(), row.environment["code"]
    return "" if here == there else f"; but its code was {there}, and this is {here}"
