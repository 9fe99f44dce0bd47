"""`distsim ladder` on a small sweep, from its networks to its table and figure."""

from pathlib import Path

import pandas as pd
import pytest
from sweep_scripts import Outcome, outcome

from distsim.cli import main as cli
from distsim.cli import sweeps
from distsim.problems import PROBLEMS
from distsim.results import reduce

SMALL = PROBLEMS["digits"].reduced_to(epochs=1, probe=130, train_limit=140)
HERE = ("--local", "--device", "cpu")


def ladder(*arguments: object) -> Outcome:
    return outcome(lambda: cli.main(["ladder", *map(str, arguments)]))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduce, "draw", lambda root, again=False: [])
        flags = ("--runs", "3", "--iterations", "3", "--metrics", "cka", "mean_cca", "--no-chance")
        done = outcome(
            lambda: sweeps.main(SMALL, arguments=[*HERE, *flags, "--control", "none", "--storage", str(folder)])
        )
    assert done.status == 0, done.err
    return folder


def test_it_ranks_metrics_and_goes_on_where_it_was_interrupted(store: Path, tmp_path: Path) -> None:
    out, asked = tmp_path / "out", ("--only-runs", 0, 1, "--only-iterations", 1, 3)
    first = ladder(store, *HERE, *asked, "--out", out)
    assert first.status == 0, first.err
    barriers = pd.read_parquet(out / "barriers.parquet")
    assert len(barriers) == 2 * 4, "one pair in each run and one at each iteration, as they are and aligned"
    assert (barriers["barrier"] >= 0).all()
    table = pd.read_parquet(out / "ladder.parquet")
    assert set(table["metric"]) == {"cka", "mean_cca"}
    assert set(table["test"]) >= {"ancestry"}
    assert first.out.count(" of 8: ") == 8
    for name in ("ladder.csv", "ladder.png", "ladder.pdf", "resi.parquet"):
        assert (out / name).stat().st_size > 0
    before = (out / "ladder.parquet").read_bytes()
    barriers.drop(index=[2, 5]).to_parquet(out / "barriers.parquet", index=False)
    again = ladder(store, *HERE, *asked, "--out", out)
    assert again.status == 0, again.err
    assert again.out.count(" of 2: ") == 2, "only what was missing"
    assert "nothing is missing" in again.out
    assert (out / "ladder.parquet").read_bytes() == before


def test_forecast_writes_nothing(store: Path, tmp_path: Path) -> None:
    said = ladder(store, *HERE, "--forecast", "--out", tmp_path / "out")
    assert said.status == 0, said.err
    assert "pairs of layers in" in said.out
    assert not (tmp_path / "out").exists()


def test_mistakes_are_sentences(store: Path, tmp_path: Path) -> None:
    few = ladder(store, *HERE, "--only-runs", 7, "--out", tmp_path / "out")
    assert few.status == 1
    assert "a ladder needs two networks at least, and of the runs and iterations asked for the store has 0" in few.err
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "barriers.parquet").write_bytes(b"no table")
    bad = ladder(
        store, *HERE, "--only-runs", 0, 1, "--only-iterations", 1, "--metrics", "cka", "--out", tmp_path / "bad"
    )
    assert bad.status == 1
    assert "barriers.parquet is not a table of barriers that this command wrote" in bad.err
    for said in (few, bad):
        assert "Traceback" not in said.err
