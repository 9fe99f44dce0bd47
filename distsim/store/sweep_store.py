"""The layout of a store, and which parts of a sweep it holds.

<root>/<problem>/spec.json                              identity, written once
                 request.json                           extent and where the data lie, as last asked for
                 behaviour/                             what the network computed at first (sweep.kept_behaviour)
                 layers.json                            the compared layers (distsim.store.described); not a result
                 metrics/<name>.json                    a metric that does not come with distsim; not a result
                 complete/                              the network that every run starts from
                 runs/0003/iter_07/                     run 3 after its seventh pruning
                 <network>/COMMIT.json                  the mark; COMMIT-2.json once DROPPED.json is there, and so on
                 <network>/attempt-<id>/*.safetensors   weights, masks; for the complete network also its rewind state
                 <network>/activations/                 a commit of its own: a Zarr group
                 <network>/logits/                      a commit of its own: what it says of the test images
                 <network>/comparison/<layer>/<metrics>.json     a mark that holds its values
                 <network>/chance/<layer>/<metrics>.json         the same with permuted examples
                 <network>/null/<layer>/<metrics>.0-1.json       permutations 0 and 1, at the other iterations
                 <network>/se/<layer>/<metrics>.json             values without each tenth of the examples
                 pairs/<layer>/<digest>.json            networks compared with each other, a tile at a time
                 pairs/<layer>/se/<digest>.json         their values without each tenth of the examples
                 pair_results/                          tables and figures of pairs
                 results/                               tables
<root>/figures/                                         drawn from all problems of the store
<root>/lease/                                           which driver is at work here (distsim.store.lease)
<root>/control/000003.json                              what its drivers are to do (distsim.store.control)
<root>/tune/                                            Ray Tune's own files, never read
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import distsim
from distsim import trace
from distsim.specs import Identity, NetworkId, Request, UnknownField, canonical_json, differences, digest
from distsim.specs.canonical import signed
from distsim.store.commits import (
    MARK,
    Attempt,
    DamagedStore,
    Mark,
    WrittenByAnother,
    drop,
    generation,
    mark_path,
    read_decoded,
    read_object,
)
from distsim.store.contents import Contents, contents_of, current_marks
from distsim.store.epochs import delete_checkpoints
from distsim.store.fenced import replace, replace_one
from distsim.store.paths import PAIRS, VALUES, Kind, OfPairs, Pair, pairs_path, place_of, values_path
from distsim.store.readable import readable
from distsim.store.records import LARGEST_SPEC, WEIGHTS, decode_spec, identity_in, read_record, weights_of
from distsim.store.storage import Storage

if TYPE_CHECKING:  # PyTorch takes seconds to import, and most readers load no network
    from distsim.training.chain import TrainedNetwork


class IdentityMismatch(ValueError):
    """The store holds another sweep than the one asked for: the values that determine its numbers differ."""


class SweepStore:
    """One problem's sweep in a store."""

    def __init__(self, root: Storage | str, problem: str) -> None:
        self.root = root if isinstance(root, Storage) else Storage(root)
        self.problem = problem
        self.storage = self.root.within(problem)

    # --- identity and extent -----------------------------------------------------------------------------------------

    def claim(self, identity: Identity) -> bool:
        """Write the identity into the store. Return False if the store already has this identity.

        A spec.json under which nothing was ever committed is replaced. IdentityMismatch: the store holds another
        identity; the text names each field that differs.
        """
        content = {"identity": identity.as_dict(), "hash": identity.hash, "distsim": distsim.__version__}
        encoded = canonical_json(content).encode()
        if self.storage.get("spec.json") is None:
            self._require_own_pieces(identity)
            if self.storage.create("spec.json", encoded):
                return True
        theirs = self.identity()
        if theirs.hash == identity.hash:
            return False
        if not any(self.contents().__dict__.values()):
            replace_one(self.root, f"{self.problem}/spec.json", encoded)
            return True
        fields = "; ".join(differences(identity.as_dict(), theirs.as_dict()))
        raise IdentityMismatch(
            f"the store {self.root.url} holds another sweep of {self.problem}. It differs in {fields}. "
            "Ask for the same, or use another --storage"
        )

    def _require_own_pieces(self, identity: Identity) -> None:
        """Check the networks of a store without spec.json. IdentityMismatch: one of them has another identity."""
        for network in sorted(self.contents().networks):
            mark = self.mark(network)
            if mark is not None and mark.identity != identity.hash:
                raise IdentityMismatch(
                    f"the store {self.root.url} holds {network.label} of another sweep of {self.problem}, "
                    "and its spec.json is gone: use another --storage"
                )

    def identity(self) -> Identity:
        """Return the identity in the store.

        FileNotFoundError: there is none. DamagedStore: spec.json is damaged, or another distsim wrote it.
        """
        spec = read_decoded(self.storage, "spec.json", LARGEST_SPEC, decode_spec)
        if spec is None:
            raise FileNotFoundError(f"no sweep of {self.problem} in {self.root.url}")
        where = f"spec.json in {self.storage.url}"
        identity = identity_in(spec, where)
        if identity.problem.name != self.problem:
            raise DamagedStore(f"{where} belongs to {identity.problem.name}")
        return identity

    def write_request(self, request: Request) -> None:
        """Write request.json in place of an earlier one."""
        replace_one(self.root, f"{self.problem}/request.json", signed(request.as_dict()))

    def request(self) -> Request:
        """Return what was asked for last.

        FileNotFoundError: nothing was yet. DamagedStore: request.json is damaged. WrittenByAnother: a newer distsim
        wrote it.
        """
        content = self.storage.get("request.json", most=LARGEST_SPEC)
        if content is None:
            raise FileNotFoundError(f"no request.json in {self.storage.url}: run its sweep script, which writes it")
        try:
            tree = json.loads(content)
            sha256 = tree.pop("sha256", None)  # older versions wrote none
            if sha256 not in (None, digest(tree)):
                raise ValueError("its content does not match the digest in it")
            return Request.from_dict(tree)
        except UnknownField as error:
            problem = DamagedStore if sha256 is None else WrittenByAnother
            raise problem(
                f"request.json of {self.storage.url} was written by another distsim (this is {distsim.__version__}): "
                f"{error}. Use that one, or run the sweep script, which writes it again"
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise DamagedStore(
                f"request.json of {self.storage.url} is damaged: run its sweep script, which writes it again"
            ) from None

    # --- contents ----------------------------------------------------------------------------------------------------

    def contents(self, listed: Iterable[str] | None = None) -> Contents:
        """Return everything that is committed, from one listing of the store. listed : one that was just made"""
        return contents_of(self.storage.sizes() if listed is None else listed)

    # --- networks ----------------------------------------------------------------------------------------------------

    def mark(self, network: NetworkId) -> Mark | None:
        """Return a network's mark, or None if it is not committed. DamagedStore: the mark is damaged."""
        return self._piece(network.path)

    def committed(self, network: NetworkId) -> Mark:
        """Return a network's mark. FileNotFoundError: it is not committed. DamagedStore: the mark is damaged."""
        mark = self.mark(network)
        if mark is None:
            raise FileNotFoundError(f"{network.label} of {self.problem} is not in {self.root.url}")
        return mark

    def _piece(self, piece: str) -> Mark | None:
        return read_record(self.storage, mark_path(piece, generation(self.storage, piece)))

    def commit_network(
        self, network: NetworkId, step: "TrainedNetwork", files: dict[str, bytes] | None = None, **fields: Any
    ) -> "TrainedNetwork":
        """Commit a trained network and delete its checkpoints. Return the network that counts.

        That is an earlier writer's if there is one. On a GPU its weights may be others.

        files : further objects of the commit, by name
        fields : identity, environment and provenance of the Mark
        """
        import safetensors.torch

        where = "commit", self.problem, network.label
        with trace.stage(*where), Attempt(self.storage, network.path) as attempt:
            attempt.put("weights.safetensors", safetensors.torch.save(step.weights))
            attempt.put("masks.safetensors", safetensors.torch.save(step.masks))
            if step.rewind is not None:
                attempt.put("rewind.safetensors", safetensors.torch.save(step.rewind))
            for name, content in (files or {}).items():
                attempt.put(name, content)
            mark = attempt.commit(values=step.record, **fields)
        delete_checkpoints(self.storage, network.path)
        return step if mark.objects == attempt.objects else self.load_network(network)

    def load_masks(self, network: NetworkId) -> dict[str, Any]:
        """Return a committed network's masks by parameter. Errors: see `load_network`."""
        return self._tensors(network, self.committed(network), "masks.safetensors")

    def load_network(self, network: NetworkId) -> "TrainedNetwork":
        """Return a committed network. DamagedStore: an object is missing or changed. FileNotFoundError: no mark."""
        from distsim.training.chain import TrainedNetwork

        mark = self.committed(network)
        tensors = {
            name.removesuffix(".safetensors"): self._tensors(network, mark, name)
            for name in mark.objects
            if name.endswith(".safetensors")
        }
        weights, masks = tensors["weights"], tensors["masks"]
        return TrainedNetwork(network.iteration, weights, masks, mark.values, tensors.get("rewind"))

    def _tensors(self, network: NetworkId, mark: Mark, name: str) -> dict[str, Any]:
        import safetensors.torch

        content = read_object(self.storage, network.path, mark, name)
        try:
            return safetensors.torch.load(content)
        except safetensors.SafetensorError as error:
            where = f"{network.path}/attempt-{mark.attempt}/{name}"
            raise DamagedStore(f"{where} in {self.storage.url} cannot be read: {error}") from None

    # --- activations and logits --------------------------------------------------------------------------------------

    def piece_path(self, network: NetworkId, what: str) -> str:
        """Return the path of what is kept beside a network. what : activations or logits"""
        return f"{network.path}/{what}"

    def activations_path(self, network: NetworkId) -> str:
        return self.piece_path(network, "activations")

    def activations_mark(self, network: NetworkId) -> Mark | None:
        """Return the mark of a network's activations. See `piece_mark`."""
        return self.piece_mark(network, "activations")

    def piece_mark(self, network: NetworkId, what: str) -> Mark | None:
        """Return the mark of a network's activations or logits, or None if they are not committed.

        DamagedStore: the mark is damaged, or they are those of other weights.
        """
        mark = self._piece(self.piece_path(network, what))
        if mark is not None and WEIGHTS in mark.provenance:  # older marks do not name the weights
            self._require_own_weights(network, what, mark, self.mark(network))
        return mark

    def _require_own_weights(self, network: NetworkId, what: str, mark: Mark, of_network: Mark | None) -> None:
        weights = None if of_network is None else weights_of(of_network)
        if weights is not None and mark.provenance.get(WEIGHTS, weights) != weights:
            raise DamagedStore(
                f"the {what} of {network.label} in {self.storage.url} come from other weights than the "
                "network's: distsim repair drops them"
            )

    def listed_marks(self, paths: Iterable[str], *derived: Kind) -> dict[tuple[NetworkId, str], Mark]:
        """Return (network, kind) -> mark of the networks in a listing, and of what is derived from them.

        Each is one request. paths : from the sweep's folder. derived : activations or logits

        DamagedStore: a mark is damaged, or something derived is of other weights.
        """
        places = current_marks(paths, "network", *derived)
        of_networks = {network for network, kind in places if kind == "network"}
        read = {key: read_record(self.storage, path) for key, path in places.items() if key[0] in of_networks}
        marks = {key: mark for key, mark in read.items() if mark is not None}
        for (network, kind), mark in marks.items():
            if kind != "network":
                self._require_own_weights(network, kind, mark, marks.get((network, "network")))
        return marks

    def drop_activations(self, network: NetworkId) -> None:
        """Remove a network's activations. They stop counting before the first object is deleted."""
        drop(self.storage, self.activations_path(network))

    # --- comparisons -------------------------------------------------------------------------------------------------

    def commit_comparison(
        self,
        network: NetworkId,
        layer: str,
        values: dict[str, Any],
        what: str = "comparison",
        permutations: range = range(0),
        **fields: Any,
    ) -> None:
        """Commit one layer's values of one network. Values of an earlier writer stay.

        what : one of distsim.store.paths.VALUES; permutations : numbers of those in a null
        fields : identity, environment and provenance of the Mark
        """
        self._create(values_path(network, what, layer, values, permutations), values, dict(fields))

    def comparisons(
        self, what: str = "comparison", of: NetworkId | None = None, paths: Iterable[str] | None = None
    ) -> dict[tuple[NetworkId, str], list[Mark]]:
        """Return (network, layer) -> the marks that hold its values, in a fixed order. DamagedStore: one is damaged.

        of : only this network's; None: all
        paths : a listing of the sweep's folder, if there is one
        """
        marks: dict[tuple[NetworkId, str], list[Mark]] = {}
        for path, mark in self.value_marks(what, of, paths).items():
            place = place_of(path)
            if place is not None and place.network is not None:
                marks.setdefault((place.network, place.layer), []).append(mark)
        return marks

    def value_marks(
        self, what: str, of: NetworkId | None = None, paths: Iterable[str] | None = None
    ) -> dict[str, Mark]:
        """Return path -> mark that holds values, sorted by path. Arguments and errors: see `comparisons`."""
        if paths is None:
            paths = self.storage.sizes() if of is None else self.storage.sizes(f"{of.path}/{what}")
        places = {path: place_of(path) for path in sorted(paths)}
        wanted = [path for path, place in places.items() if place is not None and place.kind == what]
        return {path: mark for path in wanted if (mark := read_record(self.storage, path)) is not None}

    def commit_pairs(self, layer: str, results: Mapping[Pair, Any], what: OfPairs = "pairs", **fields: Any) -> None:
        """Commit one layer's values of pairs of networks. Values of an earlier writer stay.

        what : pairs_se are values without each block of the examples
        """
        metrics = sorted({metric for values in results.values() for metric in values})
        values = {"layer": layer, "pairs": [[a.as_json(), b.as_json(), values] for (a, b), values in results.items()]}
        self._create(pairs_path(layer, results, metrics, what), values, fields)

    def _create(self, path: str, values: dict[str, Any], fields: dict[str, Any]) -> None:
        """Create a mark that holds values, unless there is one. fields : of the Mark. ValueError: see `readable`."""
        fields["provenance"] = fields.get("provenance", {}) | {"piece": path}
        self.storage.create(path, readable(Mark(attempt="", objects={}, values=values, **fields), path))

    def pair_marks(self, what: OfPairs = "pairs") -> dict[str, Mark]:
        """Return path -> mark that holds values of pairs, sorted by path. DamagedStore: a mark holds something else.

        what : as for `commit_pairs`
        """
        places = {path: place_of(path) for path in sorted(self.storage.sizes("pairs"))}
        paths = [path for path, place in places.items() if place is not None and place.kind == what]
        return {path: mark for path in paths if (mark := read_record(self.storage, path)) is not None}

    def digests(self) -> dict[str, str]:
        """Read and check everything. Return piece -> SHA-256 of its contents: networks, activations, values, tables.

        Equal sweeps have equal digests, no matter where and when they were computed and how often interrupted.
        DamagedStore: an object is missing or changed.
        """
        contents = self.contents()
        pieces = [network.path for network in contents.networks]
        pieces += [self.activations_path(network) for network in contents.activations]
        pieces += [self.piece_path(network, "logits") for network in contents.logits]
        digests = {}
        for piece in pieces:
            mark = self._piece(piece)
            if mark is not None:
                for name in mark.objects:
                    read_object(self.storage, piece, mark, name)
                digests[piece] = mark.digest
                if "layers" in mark.values:  # activations: an object store holds the same values in other objects
                    digests[piece] = dataclasses.replace(mark, objects={}).digest
        for what in VALUES:
            digests |= {path: mark.digest for path, mark in self.value_marks(what).items()}
        for of_pairs in PAIRS:
            digests |= {path: mark.digest for path, mark in self.pair_marks(of_pairs).items()}
        results = self.results_mark()
        for name in results.objects if results is not None else ():
            if not name.startswith("provenance"):
                digests[f"results/{name}"] = hashlib.sha256(self.read_result(name)).hexdigest()
        return dict(sorted(digests.items()))

    # --- results -----------------------------------------------------------------------------------------------------

    def results_mark(self) -> Mark | None:
        return read_record(self.storage, f"results/{MARK}")

    def replace_results(self, files: dict[str, bytes], **fields: Any) -> Mark:
        """Write new tables in place of the old ones. They count as missing until the new mark is written.

        StoreInUse: another driver took over. Its tables stay, or are put back.
        """
        return replace(self.root, f"{self.problem}/results", files, **fields)

    def read_result(self, name: str) -> bytes:
        """Return a table's bytes. FileNotFoundError: there are no tables yet. DamagedStore: the table was changed."""
        mark = self.results_mark()
        if mark is None or name not in mark.objects:
            raise FileNotFoundError(f"no results of {self.problem} in {self.root.url} yet: distsim report writes them")
        content = self.storage.get(f"results/{name}", most=mark.objects[name][0]) or b""
        if hashlib.sha256(content).hexdigest() != mark.objects[name][1]:
            raise DamagedStore(
                f"results/{name} in {self.storage.url} is not what was written: distsim report writes it again"
            )
        return content
