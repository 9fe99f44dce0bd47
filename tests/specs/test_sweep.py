import dataclasses
import inspect
import json
import subprocess
import sys

import pytest

import distsim
from distsim.cli import sweeps
from distsim.problems import PROBLEMS
from distsim.specs import (
    CHOSEN,
    DEFAULT_METRICS,
    KEPT,
    MEASURES,
    PAPER_METRICS,
    Extent,
    Identity,
    NetworkId,
    Problem,
    Pruning,
    Reading,
    Recipe,
    Request,
    Sweep,
    UnknownField,
    canonical_json,
    differences,
    digest,
    names,
)

RECIPE = Recipe(epochs=10, batch_size=4)
PROBLEM = Problem("toy", "digits", "vgg_digits", 8, 1, RECIPE, Pruning())
IDENTITY = Identity(PROBLEM, data_digest="0" * 64)
EXTENT = Extent(runs=1, iterations=1, measure=())


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (
            PROBLEM,
            {"pruning": Pruning(rewind="WR", rewind_epoch=10)},
            "rewind_epoch 10 leaves nothing to train in 10 epochs",
        ),
        (IDENTITY, {"threads": 0}, "threads must be at least 1, got 0"),
        (IDENTITY, {"precision": "float16"}, r"precision must be float32, bfloat16 or tf32, got 'float16'"),
        (IDENTITY, {"storage": "float16"}, "storage must be auto or float32, got 'float16'"),
        (EXTENT, {"metrics": ("cka", "r/a")}, r"a metric's name must be an identifier, got \['r/a'\]"),
        (EXTENT, {"runs": 0}, "runs must be at least 1, got 0"),
        (EXTENT, {"iterations": 0}, "iterations must be at least 1, got 0"),
        (EXTENT, {"retention": "none"}, "retention must be reference or all, got 'none'"),
        (
            PROBLEM,
            {"recipe": Recipe(epochs=1, batch_size=1, normalise=((0.5,) * 3, (0.5,) * 3))},
            "normalise has constants of 3 channels, images have 1",
        ),
        (IDENTITY, {"threads": 1025}, "threads must be at most 1,024, got 1,025"),
        (IDENTITY, {"seed": 2**63}, r"seed must be a whole number \(64 bits\), got 9223372036854775808"),
        (EXTENT, {"runs": 1001, "iterations": 100}, "runs x iterations must be at most 100,000 networks, got 100,100"),
        (EXTENT, {"metrics": "cka"}, "metrics must be a tuple, each text, got 'cka'"),
        (Sweep(IDENTITY, EXTENT), {"pack": 0}, "pack must be at least 1, got 0"),
        (Sweep(IDENTITY, EXTENT), {"resources": (("cpu", 0.0),)}, "resources: cpu must be above zero, got 0.0"),
        (IDENTITY, {"comparison": "slow"}, "comparison must be exact or fast, got 'slow'"),
        (EXTENT, {"activations": "disk"}, "activations must be store or memory, got 'disk'"),
        (Sweep(IDENTITY, EXTENT), {"device": "auto"}, "device must be cpu or cuda, got 'auto'"),
        (Request(EXTENT, "", "auto"), {"device": "tpu"}, "device must be auto, cpu or cuda, got 'tpu'"),
        (Request(EXTENT, "", "auto"), {"data": None}, "data must be text, got None"),
        (Reading(), {"skip_bad": -1}, "skip_bad must not be negative, got -1"),
        (Reading(), {"bits": 17}, "bits must be at most 16, got 17"),
        (Reading(), {"bits": 0}, "bits must be at least 1, got 0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(spec, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(spec, **change)


# --- identity ---


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_an_identity_survives_json(name):
    problem = PROBLEMS[name]
    identity = Identity(problem, data_digest="ab" * 32, seed=3, threads=2, storage="float32")
    tree = json.loads(canonical_json(identity.as_dict()))
    again = Identity.from_dict(tree)
    unwritten = ("runs", "iterations", "control_runs", "paper")
    extent = {name: getattr(problem, name) for name in unwritten}
    assert dataclasses.replace(again, problem=dataclasses.replace(again.problem, **extent)) == identity
    assert again.hash == identity.hash
    assert differences(again.as_dict(), tree) == []


def test_reading_an_identity_leaves_the_tree_as_it_was():
    tree = IDENTITY.as_dict()
    Identity.from_dict(tree)
    assert tree == IDENTITY.as_dict()


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("recipe", "problem lacks recipe"),
        ("pruning", "problem lacks pruning"),
        ("size", "problem lacks size"),
    ],
)
def test_an_identity_without_a_field_is_refused(field, message):
    tree = IDENTITY.as_dict()
    del tree["problem"][field]
    with pytest.raises(TypeError, match=message):
        Identity.from_dict(tree)


def test_an_identity_with_an_unknown_field_is_refused():
    tree = IDENTITY.as_dict()
    tree["problem"]["recipe"]["warmup"] = 5
    with pytest.raises(TypeError, match=r"problem\.recipe has the field 'warmup', which this distsim does not know"):
        Identity.from_dict(tree)


@pytest.mark.parametrize("format", [3, 5, None, "4"])
def test_an_identity_of_another_format_is_refused(format):
    with pytest.raises(ValueError, match=f"its format is {format!r}, this distsim reads 4"):
        Identity.from_dict(IDENTITY.as_dict() | {"format": format})


def test_identities_hash_differently_for_different_problems():
    hashes = {Identity(problem, data_digest="0" * 64).hash for problem in PROBLEMS.values()}
    assert len(hashes) == len(PROBLEMS)


BASE = Identity(
    dataclasses.replace(PROBLEM, recipe=dataclasses.replace(RECIPE, patience=5), pruning=Pruning(scope="local")),
    data_digest="0" * 64,
)
# another valid value for each field that determines a number
OTHER = {
    Identity: {
        "data_digest": "1" * 64,
        "seed": 1,
        "threads": 2,
        "precision": "bfloat16",
        "deterministic": True,
        "storage": "float32",
        "comparison": "fast",
        "format": 99,
        "compile": True,
        "fuse": 2,
    },
    Problem: {
        "name": "other",
        "source": "mnist",
        "model": "lenet5",
        "size": 28,
        "channels": 3,
        "classes": ("1", "0"),
        "probe": 7,
        "probe_rule": "first",
        "probe_from": "test",
        "train_limit": 100,
        "reduced": True,
        "layers": ("conv*", "out"),
    },
    Recipe: {
        "epochs": 11,
        "batch_size": 5,
        "optimizer": "adam",
        "lr": 0.2,
        "momentum": 0.8,
        "weight_decay": 0.1,
        "schedule": "step",
        "milestones": (3,),
        "factor": 0.5,
        "peak": 2.0,
        "lars": True,
        "augment": ("flip",),
        "patience": 6,
        "validation": 0.2,
        "normalise": ((0.5,), (0.5,)),
    },
    Pruning: {
        "scope": "mixed",
        "conv_rate": 0.3,
        "fc_rate": 0.3,
        "biases": True,
        "prune_output": False,
        "rewind": "WR",
        "rewind_epoch": 1,
        "finetune_epochs": 3,
        "criterion": "other",
    },
}
EXTENT_ONLY = {"runs", "iterations", "paper", "control_runs"}
NESTED = {"problem", "recipe", "pruning"}


def changed(kind, field, value):
    change = {field: value}
    if kind is Recipe:
        change = {"recipe": dataclasses.replace(BASE.problem.recipe, **change)}
    if kind is Pruning:
        change = {"pruning": dataclasses.replace(BASE.problem.pruning, **change)}
    if kind is not Identity:
        change = {"problem": dataclasses.replace(BASE.problem, **change)}
    return dataclasses.replace(BASE, **change)


@pytest.mark.parametrize("kind", list(OTHER), ids=lambda kind: kind.__name__)
def test_every_field_of_the_identity_is_in_its_hash(kind):
    names = {field.name for field in dataclasses.fields(kind)} - EXTENT_ONLY - NESTED
    assert names == set(OTHER[kind])  # a new field needs a line in OTHER
    others = [changed(kind, field, value) for field, value in OTHER[kind].items()]
    assert len({BASE.hash, *(other.hash for other in others)}) == len(others) + 1
    for field, other in zip(OTHER[kind], others, strict=True):
        (line,) = differences(other.as_dict(), BASE.as_dict())
        prefix = {Identity: "", Problem: "problem.", Recipe: "problem.recipe.", Pruning: "problem.pruning."}[kind]
        assert line.startswith(f"{prefix}{field}: ")


@pytest.mark.parametrize("change", [{"runs": 99}, {"iterations": 99}, {"paper": "mine"}, {"control_runs": 9}])
def test_the_extent_is_not_part_of_the_identity(change):
    other = dataclasses.replace(BASE, problem=dataclasses.replace(BASE.problem, **change))
    assert other.hash == BASE.hash
    assert differences(other.as_dict(), BASE.as_dict()) == []


# --- extent and request ---


def test_an_extent_takes_any_of_the_metrics():
    assert Extent(1, 1).metrics == DEFAULT_METRICS == (*PAPER_METRICS, "cka_unbiased")
    assert Extent(1, 1, metrics=("cka",)).metrics == ("cka",)


def test_an_extent_may_have_a_hundred_thousand_networks():
    assert Extent(runs=1000, iterations=100).runs == 1000


def test_an_extent_is_what_is_asked_for_and_else_the_problems():
    problem = dataclasses.replace(PROBLEM, runs=7, iterations=9)
    assert Extent.of(problem) == Extent(7, 9)
    assert Extent.of(problem, runs=None, metrics=["cka"], chance=False) == Extent(7, 9, ("cka",), chance=False)
    assert Extent.of(problem, runs=2, iterations=3, retention="all") == Extent(2, 3, retention="all")
    with pytest.raises(ValueError, match="runs must be at least 1, got 0"):
        Extent.of(problem, runs=0)
    with pytest.raises(ValueError, match="retention must be reference or all, got None"):  # None is a value like others
        Extent.of(problem, retention=None)
    with pytest.raises(TypeError, match="seed"):
        Extent.of(problem, seed=3)


def test_every_field_of_an_extent_is_a_flag_of_the_scripts():
    flags = vars(sweeps.parser_for([PROBLEMS["digits"]], {}).parse_args([]))
    assert set(names(Extent)) <= flags.keys()
    assert {name: flags[name] for name in KEPT} == dict.fromkeys(KEPT), "what the store was asked for last"
    asked = {name: flags[name] for name in names(Extent)}
    of_new = {"control": ("retrain", "random"), "control_runs": 1}  # which is said where somebody asks, and not before
    assert Extent.of(PROBLEMS["digits"], **asked) == Extent.of(PROBLEMS["digits"], **of_new), (
        "the flags' other defaults are the fields'"
    )


def test_what_is_chosen_is_a_flag_of_the_scripts_and_an_argument_in_python():
    flags = vars(sweeps.parser_for([PROBLEMS["digits"]], {}).parse_args([]))
    arguments = inspect.signature(distsim.run).parameters
    for name in CHOSEN:
        assert flags[name] == arguments[name].default == getattr(IDENTITY, name), name
    assert set(names(Extent)) <= arguments.keys()


def test_an_extent_survives_json():
    extent = Extent(3, 4, ("cka", "nbs"), "all", "memory", False)
    assert Extent.from_dict(json.loads(canonical_json(extent.as_dict()))) == extent


def test_a_request_is_one_object_of_the_extents_fields_and_its_own():
    sweep = Sweep(IDENTITY, EXTENT, data="folder:/data", device="cuda")
    tree = sweep.request.as_dict()
    assert tree == EXTENT.as_dict() | {"data": "folder:/data", "device": "cuda"}
    assert Request.from_dict(json.loads(canonical_json(tree))) == sweep.request
    assert Request.from_dict(tree | {"device": "auto"}).device == "auto"
    for name in tree.keys() - {"measure"}:
        with pytest.raises(TypeError, match=f"lacks {name}$"):
            Request.from_dict({other: value for other, value in tree.items() if other != name})
    with pytest.raises(UnknownField, match="request has the field 'more'"):
        Request.from_dict(tree | {"more": 1})


def test_a_request_of_before_asks_for_nothing_beside_the_values():
    tree = Extent(2, 3).as_dict()
    assert tree.pop("measure") == list(MEASURES)
    assert "permutations" not in tree
    before = Extent.from_dict(tree)
    assert before == Extent(2, 3, measure=())
    assert before.as_dict() == tree
    assert before.null_networks == ()
    assert Extent(2, 3).null_networks == (NetworkId(0, 1), NetworkId(0, 2), NetworkId(0, 3))
    assert Extent(2, 3, chance=False).null_networks == (), "without permuted examples there is none"


# --- what stores of format 4 hold ---

# Of a store that was written before specs could grow. These texts are never to change.
SPEC = (
    '{"comparison":"exact","data_digest":"e1021797361d2eda5ccf70f0b8fb037bd5e2c12d6e8645fb69c1f1c19e8351df",'
    '"deterministic":false,"format":4,"precision":"float32","problem":{"channels":1,"classes":["0","1","2","3","4","5",'
    '"6","7","8","9"],"model":"vgg_digits","name":"golden","probe":60,"probe_rule":"uniform","pruning":{"biases":true,'
    '"conv_rate":0.2,"fc_rate":0.2,"finetune_epochs":10,"prune_output":false,"rewind":"WR","rewind_epoch":1,"scope":'
    '"mixed"},"recipe":{"augment":[],"batch_size":64,"epochs":3,"factor":0.1,"lars":false,"lr":0.002,"milestones":[],'
    '"momentum":0.9,"normalise":[[0.30550367647058824],[0.3795353227367977]],"optimizer":"adam","patience":null,"peak":'
    '0.0,"schedule":"constant","validation":0.1,"weight_decay":0.0005},"reduced":true,"size":8,"source":"digits",'
    '"train_limit":300},"seed":0,"storage":"auto","threads":1}'
)
HASH = "46003c6e9fc53fbd113640a580a5bcc09292f4611ef9453eae5c3dd73b045eb6"
REQUEST = (
    '{"activations":"store","chance":true,"data":"","device":"cpu","iterations":2,"metrics":["mean_cca","svcca","pwcca",'
    '"cka","nbs","cosine","cka_unbiased"],"retention":"reference","runs":2}'
)
REQUEST_DIGEST = "876fb216d21af964be3f6f41787ca13025676413008e524f9d0f964cea44fa30"
# SHA-256 over the hashes of the 10 problems of distsim.problems, in order of their names, on no data
PROBLEM_HASHES = "a9a735ef407b0f634b57527b7b9128b50895a7d38c212241f4470ec57bfd73b9"


def test_an_identity_of_format_4_is_read_and_written_byte_for_byte():
    identity = Identity.from_dict(json.loads(SPEC))
    assert identity.hash == HASH
    assert canonical_json(identity.as_dict()) == SPEC


def test_a_request_of_format_4_is_read_and_written_byte_for_byte():
    request = Request.from_dict(json.loads(REQUEST))
    assert canonical_json(request.as_dict()) == REQUEST
    assert digest(request.as_dict()) == REQUEST_DIGEST


def test_the_papers_problems_hash_as_they_did():
    hashes = [Identity(PROBLEMS[name], data_digest="0" * 64).hash for name in sorted(PROBLEMS) if name != "digits"]
    assert digest(hashes) == PROBLEM_HASHES


def test_specs_need_no_library_to_be_imported():
    code = (
        "import sys, distsim.specs as s; s.Problem('a', 'digits', 'm', 8, 1, s.Recipe(1, 1), s.Pruning());"
        "print({'torch', 'ray', 'pandas', 'numpy', 'distsim.metrics'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
