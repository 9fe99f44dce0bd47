"""Names of layers in paths: any name has a path, plain names keep theirs, and no two share one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsim.specs.layer_names import LONGEST, fault, from_path, in_path

PLAIN = ("conv1_1", "layer1.0.relu", "relu@2", "größe", "fc 2", "a+b", "#1", "x~", "Ω", "$\\alpha$".replace("\\", ""))
ODD = ("block/conv1", "..", ".", ".hidden", "__init__", "zarr.json", "a\\b", "100%", "a%2Fb", "=1+1", "<b>", "a,b")


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_name_is_its_own_path(name: str) -> None:
    assert in_path(name) == name
    assert fault(name) == ""


@pytest.mark.parametrize("name", ODD)
def test_an_odd_name_has_a_path(name: str) -> None:
    assert fault(name) == ""
    segment = in_path(name)
    assert from_path(segment) == name
    assert "/" not in segment
    assert "\\" not in segment
    assert not segment.startswith((".", "__"))
    assert segment != "zarr.json"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_the_path_gives_the_name_back(name: str) -> None:
    assert from_path(in_path(name)) == name
    assert in_path(name).isprintable()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "must not be empty"),
        ("two\nlines", "printable text without line breaks"),
        ("\x1b[31m", "printable text"),
        ("x" * (LONGEST + 1), "may have 200 bytes"),
        ("/" * 70, "may have 200 bytes"),
        ("ü" * 101, "may have 200 bytes"),
    ],
)
def test_a_name_that_no_layer_can_have(name: str, said: str) -> None:
    assert said in fault(name)
    assert fault("x" * LONGEST) == ""
