"""Changes of specs from a command line or a TOML file."""

import tomllib

import pytest

from distsim.problems import PROBLEMS
from distsim.specs.changes import changed, merged, parsed, written


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("recipe.lr=0.05", {"recipe": {"lr": 0.05}}),
        ("probe=1000", {"probe": 1000}),
        ("pruning.scope=local", {"pruning": {"scope": "local"}}),
        ('pruning.scope="local"', {"pruning": {"scope": "local"}}),
        ("classes = ['a', 'b=c']", {"classes": ["a", "b=c"]}),
        ("recipe.lars=true", {"recipe": {"lars": True}}),
        ("name=a\nb = 1", {"name": "a\nb = 1"}),
        ("name=", {"name": ""}),
    ],
)
def test_a_change_is_a_path_and_a_toml_value_or_text(text, tree):
    assert parsed(text) == tree


@pytest.mark.parametrize("text", ["", "lr", "=3", "recipe..lr=3", "recipe.l r=3", ".=3"])
def test_what_is_not_a_change_is_refused_by_name(text):
    with pytest.raises(ValueError, match="is not FIELD=VALUE, as in recipe"):
        parsed(text)


def test_changes_are_merged_field_by_field_and_the_last_wins():
    trees = [parsed(text) for text in ("pruning.scope=global", "pruning.conv_rate=0.1", "pruning.scope=local")]
    assert merged(merged(trees[0], trees[1]), trees[2]) == {"pruning": {"scope": "local", "conv_rate": 0.1}}
    assert merged({"recipe": 3}, {"recipe": {"lr": 1.0}}) == {"recipe": {"lr": 1.0}}


def test_only_the_named_fields_change():
    problem = PROBLEMS["cifar8"]
    result = changed(problem, {"recipe": {"patience": "none", "milestones": [3, 4]}, "probe": 7}, "--set")
    assert (result.recipe.patience, result.recipe.milestones, result.probe) == (None, (3, 4), 7)
    assert changed(result, {"recipe": {"patience": 20, "milestones": []}, "probe": 5000}, "--set") == problem


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"nix": 1}, "--set: 'nix' is not known; the fields are name, source, model"),
        ({"recipe": {"lx": 1}}, "--set: 'recipe.lx' is not known; the fields of recipe are epochs, batch_size"),
        ({"recipe": 3}, r"--set: recipe has fields of its own \(epochs, .*\), got 3"),
        ({"recipe": {"lr": -1}}, "--set: recipe.lr must be positive, got -1"),
        ({"recipe": {"lr": "fast"}}, "--set: recipe.lr must be a finite number, got 'fast'"),
        ({"probe": {"n": 3}}, "--set: probe must be a whole number"),
        ({"pruning": {"rewind_epoch": 60}}, "--set: rewind_epoch 60 leaves nothing to train in 50 epochs"),
        ({"pruning": {"scope": "global"}}, "--set: pruning: global pruning has one rate, got 0.1 and 0.2"),
    ],
)
def test_a_wrong_change_is_a_sentence_that_names_the_field(tree, said):
    with pytest.raises(ValueError, match=said):
        changed(PROBLEMS["cifar2"], tree, "--set")


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_written_problem_reads_back_as_itself(name):
    tree = tomllib.loads("\n".join(written(PROBLEMS[name], "problem")))["problem"]
    of_extent = {"runs": 1, "iterations": 1, "control_runs": 1, "paper": ""}  # which are flags, and not written
    assert changed(PROBLEMS["digits"], tree | of_extent, "--config") == changed(PROBLEMS[name], of_extent, "--config")
