"""The place of a network's activations, in a form that can be sent to another process."""

from dataclasses import dataclass
from pathlib import Path

from distsim.store import Storage
from distsim.store.activations import LayerArray, Reader
from distsim.store.commits import Mark, read_piece


@dataclass(frozen=True)
class Place:
    """Committed activations of one network in a store on disk."""

    url: str
    piece: str

    @property
    def storage(self) -> Storage:
        return Storage(self.url)

    @property
    def mark(self) -> Mark:
        mark = read_piece(self.storage, self.piece)
        if mark is None:
            raise FileNotFoundError(f"no activations in {self.url}/{self.piece}")
        return mark

    def reader(self) -> Reader:
        return Reader(self.storage, self.piece, self.mark)

    def layer(self, name: str) -> LayerArray:
        return self.reader().layer(name)

    def files(self, layer: str) -> list[Path]:
        """Return the files of the layer's chunks, ordered by their indices."""
        mark = self.mark
        chunks = [name for name in mark.objects if name.startswith(f"{layer}/c/")]
        chunks.sort(key=lambda name: [int(index) for index in name.split("/")[2:]])
        return [Path(self.url) / self.piece / f"attempt-{mark.attempt}" / name for name in chunks]
