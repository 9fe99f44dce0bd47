"""What a store holds of a sweep that is not finished, in words."""

from distsim.specs import Extent
from distsim.store import Contents, SweepStore
from distsim.store.epochs import epochs_kept


def kept_sentence(store: SweepStore, extent: Extent) -> str:
    """Say what an interrupted sweep keeps: networks, values, and epochs of networks that are not finished.

    extent : what was asked for

    StorageError: the storage cannot be read.
    """
    contents = store.contents()
    wanted = {*extent.complete_networks, *extent.networks}
    parts = [f"{len(wanted & contents.networks)} of {len(wanted)} networks of {store.problem}"]
    if compared := _compared(contents):
        parts.append(f"{compared:,} compared layer{'s' * (compared != 1)}")
    unfinished = {
        network: epochs for network, epochs in epochs_kept(store.storage).items() if network not in contents.networks
    }
    parts += [
        f"{epochs} epoch{'s' * (epochs != 1)} of {network.label}" for network, epochs in sorted(unfinished.items())[:3]
    ]
    if len(unfinished) > 3:
        parts.append(f"epochs of {len(unfinished) - 3} more networks")
    return ", ".join(parts)


def _compared(contents: Contents) -> int:
    return len(contents.comparisons.keys() | contents.permuted | contents.se.keys())
