"""A published study: the tables of a sweep, without its networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from distsim.api.study import Study

if TYPE_CHECKING:
    import pandas as pd

    from distsim.results.published import Published
    from distsim.results.tables import Tables
    from distsim.specs import Problem


class PublishedStudy(Study):
    """The tables of a published study, as `distsim.open` returns them for its folder.

    Their columns `complete` and `environment` say which complete network a run starts from, and which row of
    `environments` a value was computed in. What needs networks raises FileNotFoundError.
    """

    def __init__(self, folder: Path, published: Published) -> None:
        """Keep the study. folder : where it was read"""
        super().__init__([])
        self.folder, self.published = folder, published

    @property
    def storage(self) -> str:
        """The study's folder."""
        return str(self.folder)

    @property
    def problems(self) -> list[str]:
        """The name of the study's problem, in a list."""
        return [self.published.problem]

    @property
    def environments(self) -> pd.DataFrame:
        """A row for each number in the columns `environment`: processor, device, threads and versions."""
        return self.published.environments

    @property
    def parts(self) -> pd.DataFrame:
        """A row for each complete network: its weights' SHA-256, the runs from it, their command, machine and hours."""
        import pandas as pd

        return pd.DataFrame(self.published.parts)

    @property
    def provenance(self) -> pd.DataFrame:
        """Not published: it names hosts. `environments` and `parts` have what decides a value."""
        self._tables_only("where each piece was computed", "environments and parts say on which machines")

    def status(self) -> NoReturn:
        """Raise FileNotFoundError: a published study has tables only."""
        self._tables_only("what was asked for", "parts says what there is")

    def network(self, *which: Any, **named: Any) -> NoReturn:
        """Raise FileNotFoundError: a published study has tables only."""
        self._tables_only("weights", "distsim.open the store that holds the networks, or see distsim prove --retrain")

    def _tables(self) -> Tables:
        return self.published.tables

    def _labels(self) -> dict[str, str]:
        return self.published.labels

    def _specs(self) -> list[Problem]:
        return [self.published.identity.problem]

    def _published(self) -> list[Published]:
        return [self.published]

    def _remarks(self) -> dict[str, str]:
        return {self.published.problem: self.published.images}

    def _tables_only(self, what: str, instead: str) -> NoReturn:
        raise FileNotFoundError(f"{self.folder} is a published study, which has tables only and not {what}: {instead}")
