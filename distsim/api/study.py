"""A study: read access to the sweeps of a store. Nothing here writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distsim import specs
from distsim.api.arguments import names_checked, require_one_of, require_path, require_whole
from distsim.comparison.arguments import plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from distsim.api.network import StudyNetwork
    from distsim.data import Dataset
    from distsim.results.published import Published
    from distsim.results.tables import Tables
    from distsim.store import SweepStore
    from distsim.sweep.status import Status

# What takes seconds to import is imported inside the functions that need it.


class Study:
    """The sweeps of a store. Made by `distsim.open` and `distsim.run`.

    Tables are read on first use and kept. To see what has been committed since, call `distsim.open` again.
    """

    def __init__(self, stores: list[SweepStore], datasets: dict[str, Dataset] | None = None) -> None:
        """Keep the stores. datasets : problem -> its data, where the caller has them."""
        self._stores = {store.problem: store for store in stores}
        self._datasets = datasets or {}
        self._read: dict[str, tuple[Tables, pd.DataFrame]] = {}

    def __repr__(self) -> str:
        return f"Study({self.storage!r}, problems={self.problems})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a row for each problem."""
        from distsim.api.showing import study_html

        return study_html(self.storage, self.problems, self.networks, self.accuracy)

    @property
    def storage(self) -> str:
        """The store's folder or URL."""
        return str(next(iter(self._stores.values())).root.url)

    @property
    def problems(self) -> list[str]:
        """Names of the store's problems."""
        return list(self._stores)

    # --- tables ------------------------------------------------------------------------------------------------------

    @property
    def results(self) -> pd.DataFrame:
        """A row for each problem, run, iteration, layer and metric: similarity to the complete network."""
        return self._tables().similarities

    @property
    def networks(self) -> pd.DataFrame:
        """A row for each network: what remains of it, its test accuracy. The complete one is iteration 0 of no run."""
        return self._tables().networks

    @property
    def summary(self) -> pd.DataFrame:
        """The similarities over runs: a row for each problem, metric, layer and iteration."""
        return self._tables().summary

    @property
    def accuracy(self) -> pd.DataFrame:
        """Test accuracy over runs: a row for each problem and iteration."""
        return self._tables().accuracy

    @property
    def chance(self) -> pd.DataFrame:
        """Similarities with the examples of the pruned network permuted."""
        return self._tables().chance

    @property
    def functional(self) -> pd.DataFrame:
        """How predictions for the test images differ from the complete network's: a row for each network and class.

        class "" is all images. Empty if the study does not measure it (`measure`).
        """
        return self._tables().functional

    @property
    def functional_summary(self) -> pd.DataFrame:
        """The same over runs: a row for each problem, measure, class and iteration."""
        return self._tables().functional_summary

    @property
    def reference(self) -> pd.DataFrame:
        """Similarities of complete networks with each other, where the study has several: the reference level."""
        return self._tables().reference

    @property
    def provenance(self) -> pd.DataFrame:
        """Which row of networks, results and chance was computed where, when and by what."""
        import pandas as pd

        parts = [self._of(name)[1].assign(problem=name) for name in self.problems]
        every = pd.concat(parts, ignore_index=True)
        return every[["problem", *(column for column in every if column != "problem")]]

    def _tables(self) -> Tables:
        from distsim.results.reduce import joined

        return joined([self._of(name)[0] for name in self.problems])

    def _of(self, problem: str) -> tuple[Tables, pd.DataFrame]:
        """Return a problem's tables and their provenance: as last written, or else collected from what is committed."""
        if problem not in self._read:
            from distsim.results.reduce import collect, current
            from distsim.store.descriptions import layers_of

            store = self._stores[problem]
            self._read[problem] = current(store) or collect(store, layers_of(store), store.identity().seed)
        return self._read[problem]

    # --- questions ---------------------------------------------------------------------------------------------------

    def status(self) -> list[Status]:
        """Return how far each problem is, as of now; each prints as `distsim status` says it."""
        from distsim.sweep.status import status

        return [status(store) for store in self._stores.values()]

    def claims(self) -> pd.DataFrame:
        """Return what the tables say of the papers' claims, C1 to C18: a row for each claim, problem and metric."""
        import pandas as pd

        from distsim.results.claims.judging import check
        from distsim.results.claims.study import Verdict

        verdicts = check(self._tables(), self._remarks())
        return pd.DataFrame([verdict.__dict__ for verdict in verdicts], columns=list(Verdict.__dataclass_fields__))

    def _remarks(self) -> dict[str, str]:
        """Return problem -> what to say of its images beside claims."""
        from distsim.results.claims.images import remark

        return {problem: remark(store) for problem, store in self._stores.items()}

    @names_checked
    def figure(
        self,
        name: str,
        *,
        problem: str | list[str] | None = None,
        metric: str | list[str] | None = None,
        layers: str | list[str] | None = None,
        errors: bool = False,
    ) -> Figure:
        """Return one of the papers' figures of what is in the store, a matplotlib Figure.

        name : fig1, fig4 accuracy; fig2 one metric by layer; fig8 the output layer; similarity several metrics by
            layer, which fig5, fig6 and fig7 are of P2's networks; more the metrics by layer that the papers' figures
            do not show; functional predictions for the test images
        problem : one, or for fig1, fig2 and fig4 several; by default all, for fig5 to fig7 the paper's
        metric : of fig2 one, by default svcca; of similarity, fig5 to fig8 several
        layers : patterns of names, such as "conv*", of figures by layer
        errors : draw bars of one standard error over examples, in figures by layer
        """
        from distsim.api import drawing

        choice = drawing.chosen(self.problems, problem, metric, layers, errors, **self._in_words())
        return drawing.one(self._tables(), name, choice)()

    @names_checked
    def figures(
        self,
        names: str | list[str] | None = None,
        *,
        problem: str | list[str] | None = None,
        metric: str | list[str] | None = None,
        layers: str | list[str] | None = None,
        errors: bool = False,
    ) -> dict[str, Figure]:
        """Return the figures of these names, by default all, as `distsim figures` writes them: file name -> Figure.

        The arguments are those of `figure`. A figure of one problem comes once for each, and fig2 once for each metric.
        """
        from distsim.api import drawing

        choice = drawing.chosen(self.problems, problem, metric, layers, errors, **self._in_words())
        return {name: draw() for name, draw in drawing.several(self._tables(), names, choice).items()}

    def _in_words(self) -> dict[str, dict[str, str]]:
        """Return what figures call the study's metrics and problems."""
        from distsim.results.titles import titles_of

        return {"labels": self._labels(), "titles": titles_of(self._specs())}

    def _labels(self) -> dict[str, str]:
        from distsim.results.reduce import metric_labels

        return metric_labels(next(iter(self._stores.values())).root, self._tables().summary["metric"])

    def _specs(self) -> list[specs.Problem]:
        return [store.identity().problem for store in self._stores.values()]

    @names_checked
    def report(self, file: str | Path) -> Path:
        """Write the report of the study, one HTML file that needs no network. Return its path.

        FileNotFoundError: there is no network yet. ValueError: the file cannot be written, or is not a report.
        """
        require_path("file", file)
        from distsim.results.report.writing import write_file

        studies = self._published()
        if not studies:
            raise FileNotFoundError(f"{self.storage} has no network yet: there is nothing to report")
        return write_file(studies, Path(file).expanduser())

    def _published(self) -> list[Published]:
        from distsim.results.report.writing import studies_of

        return studies_of(list(self._stores.values()))

    @names_checked
    def network(
        self,
        run: int | None = None,
        iteration: int | None = None,
        problem: str | None = None,
        control: str = "",
        complete: int = 0,
    ) -> StudyNetwork:
        """Return a network: of a run (from 0) after an iteration (from 1), or without both the complete one.

        Iteration 0 of any run is the complete network.

        control : "retrain" or "random": the run is of this control
        complete : the number of the complete network that the run starts from, where the study has several

        FileNotFoundError: it is not in the store, which says what is.
        """
        run, iteration, complete = plain(run), plain(iteration), plain(complete)
        for name, number in (("run", run), ("iteration", iteration)):
            if number is not None:
                require_whole(name, number)
        if iteration is None and run is not None:
            raise ValueError(
                f"iteration must be a whole number, as run is {run}; without both it is the complete network"
            )
        if iteration and run is None:
            raise ValueError(f"run must be a whole number, as iteration is {iteration}")
        from distsim.api.network import network_of

        store = self._stores[self._chosen(problem)]
        require_one_of("control", control, ("", *specs.CONTROLS))
        require_whole("complete", complete)
        if run is None:
            which = specs.NetworkId(complete=complete)
        else:
            kind = ("", *specs.CONTROLS).index(control)
            which = specs.RunId(complete, kind, run).network(iteration or 0)
        return network_of(store, which, self._datasets.get(store.problem))

    def _chosen(self, problem: str | None) -> str:
        if problem is not None:
            require_one_of("problem", problem, self.problems)
            return problem
        if len(self.problems) > 1:
            raise ValueError(f"problem: the store holds several, choose from {', '.join(self.problems)}")
        return self.problems[0]
