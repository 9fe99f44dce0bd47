"""`distsim prove`: from rows of a published table back to their networks and values."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from distsim.cli.arguments import device_flag, own_code_flag, whole
from distsim.cli.output import one_line, print_line
from distsim.cli.studies import import_named, source

UNDECIDED = 3  # exit status: nothing speaks against the rows, but here they need not be equal


def flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("study", metavar="STUDY", help="the folder of a published study, or a store")
    parser.add_argument(
        "rows",
        nargs="*",
        metavar="ROW",
        help="a row, written as run=3,iteration=7,layer=conv1_2,metric=nbs; without layer and metric the network's "
        "accuracy (of the complete one: run=complete); with complete=1 where the study has several complete networks",
    )
    parser.add_argument("--random", type=whole, metavar="N", help="take N rows more, drawn at random")
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="seed of the draw of rows (default: %(default)s)"
    )
    parser.add_argument(
        "--store",
        action="append",
        metavar="STORE",
        help="look for the networks in this store; the flag may be given several times",
    )
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="train the networks again, for studies of which only tables are left; its cost is said before it begins",
    )
    parser.add_argument("--problem", metavar="NAME", help="work on this problem of a store that holds several")
    parser.add_argument(
        "--data",
        metavar="WHERE",
        help="take the images from here, written as for `distsim sweep` (default: as the store last asked for)",
    )
    parser.add_argument(
        "--skip-bad", type=whole, default=0, metavar="N", help="leave out bad images as `distsim sweep --skip-bad` does"
    )
    parser.add_argument("--bits", type=whole, metavar="B", help="read deep grey values as `distsim sweep --bits` does")
    device_flag(parser, "a GPU if the row was computed on one and there is one here, else the CPU")
    own_code_flag(parser)


def do_prove(flags: argparse.Namespace) -> int:
    """Compute rows again and say whether they are as published. Return 0 if they are, 1 if not, 3 if it is open."""
    from distsim.sweep.failures import EXPECTED, sentence

    if not flags.rows and flags.random is None:
        raise ValueError("name a row, such as run=3,iteration=7,layer=conv1_2,metric=nbs, or give --random 5")
    if flags.random is not None and flags.random < 1:
        raise ValueError(f"--random takes a whole number from 1 on, got {flags.random}")
    study, stores = _opened(flags)
    rows = _rows(study, [] if flags.retrain else stores, flags)
    _make_known(study, stores, rows, flags)
    if not flags.retrain:
        _require_stores(study, stores, rows, flags)
    dataset = _dataset(study, stores, flags)
    with tempfile.TemporaryDirectory(prefix="distsim-prove-") as folder:
        proofs, unproven = [], 0
        for row, networks in _networks(study, stores, rows, dataset, folder, flags):
            try:
                proof = networks.prove(row, retrained=flags.retrain)
            except EXPECTED as error:
                print_line(one_line(f"{row.name}: not proven: {sentence('it cannot be computed', error)}"))
                unproven += 1
                continue
            print_line(_with_spread(study, proof))
            proofs.append(proof)
    return _concluded(proofs, unproven)


def _opened(flags: argparse.Namespace) -> tuple[Any, list[Any]]:
    """Return the study, and the stores that may hold its networks."""
    from distsim.specs import differences
    from distsim.store import SweepStore, existing_stores
    from distsim.store.existing import published_in

    study = source(flags.study, flags.problem)
    own = existing_stores(flags.study, study.problem) if published_in(flags.study) is None else []
    stores: list[SweepStore] = own + [
        store for where in flags.store or () for store in existing_stores(where, study.problem)
    ]
    for store in stores:
        theirs = store.identity()
        if theirs.hash != study.identity.hash:
            fields = "; ".join(differences(study.identity.as_dict(), theirs.as_dict()))
            fields = fields.replace("asked for", "in the study")
            raise ValueError(f"{store.root.url} holds another sweep than the study {flags.study}: {fields}")
    return study, stores


def _numbers(study: Any, store: Any) -> dict[int, int]:
    """Return number in the study -> number in the store, of each complete network that both have."""
    from distsim.store.records import weights_of

    numbers = {part["weights"]: part["complete"] for part in study.parts}
    there = {n.complete: store.mark(n) for n in sorted(store.contents().networks, reverse=True) if n.is_complete}
    ours = {numbers.get(weights_of(mark)): number for number, mark in there.items() if mark is not None}
    return {complete: number for complete, number in ours.items() if complete is not None}


def _rows(study: Any, stores: list[Any], flags: argparse.Namespace) -> list[Any]:
    """Return the rows that are named, and those drawn at random. ValueError: there is no such row."""
    import dataclasses

    from distsim.results.rows import RowName, drawn, found

    holding = [(_numbers(study, store), store) for store in stores]
    there = {number for numbers, _ in holding for number in numbers}
    names = [RowName.parse(text) for text in flags.rows]
    if len(there) == 1:  # the store decides which complete network is meant
        names = [dataclasses.replace(n, complete=min(there)) if n.complete is None else n for n in names]
    if flags.random is not None:
        held = {
            (number, dataclasses.replace(network, complete=0))
            for numbers, store in holding
            for number, in_store in numbers.items()
            for network in store.contents().networks
            if network.complete == in_store
        }
        names += drawn(study, flags.random, flags.seed, held if stores else None)
    return [found(study, name) for name in names]


def _make_known(study: Any, stores: list[Any], rows: list[Any], flags: argparse.Namespace) -> None:
    """Make the study's own network and the rows' own metrics known."""
    from distsim.sweep.own_code import make_known, require_known

    import_named(flags)
    metrics = _metrics(rows)
    if stores:
        make_known(stores[0], metrics)
    require_known(study.identity.problem, metrics)


def _metrics(rows: list[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.name.metric for row in rows if row.name.metric))


def _require_stores(study: Any, stores: list[Any], rows: list[Any], flags: argparse.Namespace) -> None:
    """Check that the network of each row is in a store. FileNotFoundError says what is needed instead."""
    from distsim.results.rows import part_of
    from distsim.sweep.cost import duration
    from distsim.sweep.retraining import chains

    lacking = [row for row in rows if _store_of(study, stores, row) is None]
    if not lacking:
        return
    first, part = lacking[0], part_of(study, lacking[0].name.complete)
    pruned = sum(len(chain.train) for chain in chains(row.network for row in rows))
    hours = part["training_hours"] * (1 + pruned) / (1 + part["runs"] * part["iterations"] + part.get("controls", 0))
    time = f", about {duration(3600 * hours)} on a machine like the study's" if hours else ""
    again = f"the complete network and {pruned} pruned ones{time}" if pruned else f"the complete network{time}"
    weights = f"(weights {first.weights[first.network][:12]}, complete network {part['weights'][:12]})"
    if not stores:
        raise FileNotFoundError(
            f"{flags.study} has tables only, and {first.name} needs networks. Name the store that has "
            f"{first.network.label} {weights} with --store, or train them again with --retrain: {again}"
        )
    where = ", ".join(dict.fromkeys(str(store.root.url) for store in stores))
    raise FileNotFoundError(
        f"{first.network.label} {weights} is not in {where}. Name the store that has it with --store, or train it "
        f"again with --retrain: {again}"
    )


def _store_of(study: Any, stores: list[Any], row: Any) -> Any:
    """Return the first store that has the row's network and complete network, or None."""
    import dataclasses

    for store in stores:
        number = _numbers(study, store).get(row.name.complete)
        if number is not None and store.mark(dataclasses.replace(row.network, complete=number)) is not None:
            return store
    return None


def _dataset(study: Any, stores: list[Any], flags: argparse.Namespace) -> Any:
    """Return the study's images. ValueError: those at hand are others."""
    from distsim.data import load
    from distsim.specs import Reading

    location, reading = flags.data, Reading(flags.skip_bad, flags.bits)
    if stores:
        request = stores[0].request()
        location = request.data if location is None else location
        reading = request.reading if reading == Reading() else reading
    dataset = load(study.identity.problem, location or "", reading=reading)
    if dataset.digest != study.identity.data_digest:
        raise ValueError(
            f"the images {f'at {location}' if location else 'here'} are not those of the study: their digest is "
            f"{dataset.digest[:12]}, the study's {study.identity.data_digest[:12]}. Give their location with --data"
        )
    return dataset


def _networks(
    study: Any, stores: list[Any], rows: list[Any], dataset: Any, folder: str, flags: argparse.Namespace
) -> Any:
    """Yield each row with the networks that it is computed from."""
    from dataclasses import replace

    from distsim.store import Storage
    from distsim.sweep.engine import describe
    from distsim.sweep.proof import Networks
    from distsim.sweep.retraining import retrain

    identity, metrics = study.identity, _metrics(rows)
    numbers = {part["complete"]: part.get("number", 0) for part in study.parts}  # in the sweep that made it
    there: dict[tuple[str, str], Networks] = {}
    for row in rows:
        device = _device(row, flags.device)
        if flags.retrain:
            key = device, folder
            if key not in there:
                store = retrain(
                    identity,
                    dataset,
                    device,
                    [
                        replace(each.network, complete=numbers[each.name.complete])
                        for each in rows
                        if _device(each, flags.device) == device
                    ],
                    Storage(Path(folder) / device),
                    print_line,
                    lambda event: print_line(describe(event)),
                )
        else:
            store = _store_of(study, stores, row)
            key = device, str(store.root.url)
        if key not in there:
            of_store = numbers if flags.retrain else _numbers(study, store)
            there[key] = Networks(store, identity, dataset, device, metrics, of_store)
        yield row, there[key]


def _device(row: Any, asked: str | None) -> Any:
    """Return the device to compute on: as asked, or by default the kind that the row was computed on, if it is here."""
    import torch

    from distsim.environment import resolved_device

    if asked is None:
        return "cuda" if row.environment["device"] != "cpu" and torch.cuda.is_available() else "cpu"
    return resolved_device(asked)  # type: ignore[arg-type]  # one of the flag's choices


def _with_spread(study: Any, proof: Any) -> str:
    """Return a proof as text; where equality is not promised, with the spread of the study's runs."""
    from distsim.results.rows import spread
    from distsim.sweep.proof import UNPROMISED

    return _printable(f"{proof}\n    {spread(study, proof.row.name)}" if proof.verdict == UNPROMISED else str(proof))


def _printable(text: str) -> str:
    """Return lines of text, each without the control characters that names in a study may contain."""
    return "\n".join("    " * line.startswith("    ") + one_line(line) for line in text.splitlines())


def _concluded(proofs: list[Any], unproven: int) -> int:
    """Print how many rows are proven, and return the exit status."""
    from distsim.sweep.proof import DIFFERS, UNPROMISED

    proven, count = sum(proof.proven for proof in proofs), len(proofs) + unproven
    unpromised = sum(proof.verdict == UNPROMISED for proof in proofs)
    print_line(
        f"{proven} of {count} rows {'is' if count == 1 else 'are'} proven".replace("rows is", "row is")
        + (f"; for {unpromised} equality is not promised here, so nothing follows" if unpromised else "")
    )
    if unproven or any(proof.verdict == DIFFERS for proof in proofs):
        return 1
    return UNDECIDED if unpromised else 0
