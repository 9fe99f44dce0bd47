"""Tables of pairs, of today and of before their columns were renamed."""

import pandas as pd

from distsim.results.pairs import read_pairs
from distsim.results.table_files import to_parquet_bytes


def test_old_names_of_columns_are_read() -> None:
    table = pd.DataFrame({"run_x": [None, 0], "iteration_x": [0, 1], "run_y": [0, 1], "iteration_y": [1, 1]})
    table = table.astype("Int64").assign(metric=["cka", "svcca"], value=[0.5, float("nan")], rank_x=[None, 3])
    table["rank_x"] = table["rank_x"].astype("Int64")
    old = table.rename(columns=lambda name: name.replace("run_x", "run_a").replace("iteration_x", "iteration_a"))
    old = old.rename(columns={"run_y": "run_b", "iteration_y": "iteration_b"})
    assert "run_a" in old
    of_one_network = {"complete_x": 0, "control_x": "", "complete_y": 0, "control_y": ""}  # nothing else was there
    for written in (table, old):
        read = read_pairs(to_parquet_bytes(written))
        assert (read[list(of_one_network)] == pd.Series(of_one_network)).all().all()
        pd.testing.assert_frame_equal(read[list(table.columns)], table, check_exact=True)
        assert set(read) == {*table, *of_one_network}
