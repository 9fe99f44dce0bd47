"""What is said of a problem's images beside the claims: whether they, and the probe, are the published ones."""

from distsim.store import DamagedStore, SweepStore

PUBLISHED = ("cifar10", "svhn", "mnist")  # sources whose files are checked against published checksums
REENCODED = "on re-encoded images"
UNKNOWN = "on images of unknown origin"
HELD_OUT = "with layers compared on test images"


def remark(store: SweepStore) -> str:
    """Return what to say of the images of a store's problem, "" if they are used as in the papers.

    A store holds the digest of the decoded images. Files of published data sets are read only if their checksums are
    the published ones, so a digest that came from them is theirs. Folders and files of one's own have no checksums.
    """
    problem = store.identity().problem
    held_out = HELD_OUT if problem.probe_from == "test" else ""
    return ", ".join(filter(None, (_origin(store, problem.source), held_out)))


def _origin(store: SweepStore, source: str) -> str:
    if source not in PUBLISHED:
        return ""
    try:
        data = store.request().data
    except (FileNotFoundError, DamagedStore):
        return UNKNOWN
    return REENCODED if data.startswith(("folder:", "files:")) else ""
