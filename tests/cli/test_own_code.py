"""A network and metrics of one's own: what commands do where the script that defines them was never imported."""

import dataclasses
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import own_script
import pandas as pd
import pytest
from sweep_scripts import Outcome, outcome

from distsim.cli import main as cli
from distsim.metrics.registry import METRICS
from distsim.models import MODELS
from distsim.problems import PROBLEMS
from distsim.results import reduce
from distsim.specs import Extent, Request, canonical_json, digest
from distsim.store import Storage, SweepStore
from distsim.sweep import own_code
from distsim.verify.report import DAMAGED
from distsim.verify.store import verify_store

HERE = ("--local", "--device", "cpu")
ASKED = ("--runs", "2", "--iterations", "1", "--metrics", *own_script.METRICS)


def distsim(*arguments: object) -> Outcome:
    return outcome(lambda: cli.main([str(argument) for argument in arguments]))


def sentence(result: Outcome) -> str:
    assert (result.status, result.err.count("\n")) == (1, 1), result.err
    return result.err.removeprefix("distsim: ").strip()


def files(folder: Path) -> dict[str, str]:
    """Path -> digest of every file, but of those that say which driver was at work last."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "lease")
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(autouse=True)
def own_names_are_forgotten() -> Iterator[None]:
    """What a test imports is unknown to the next one, as in another process."""
    kept = dict(MODELS), dict(METRICS), list(sys.path)
    assert "wide" not in MODELS
    yield
    for known, before in zip((MODELS, METRICS), kept[:2], strict=True):
        for name in known.keys() - before.keys():
            del known[name]
    own_code._registered_by.clear()
    for module in own_code.imported_modules():
        del sys.modules[module.__name__]
    sys.path[:] = kept[2]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wide.py and the store that it made in a process of its own. Not to be changed."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "wide.py").write_text(own_script.SCRIPT)
    line = [sys.executable, "wide.py", *HERE, *ASKED, "--storage", "store"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    """The same to change; the store's request names the script here."""
    folder = Path(shutil.copytree(kept, tmp_path / "own"))
    asked(folder / "store", script=str(folder / "wide.py"))
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer than the sweep."""
    monkeypatch.setattr(reduce, "draw", lambda root, again=False: [])


def asked(store: Path, **changes: object) -> None:
    """Change what was asked for last."""
    sweep = SweepStore(Storage(store), own_script.NAME)
    tree = sweep.request().as_dict() | changes
    tree = {name: value for name, value in tree.items() if value is not None}
    sweep.storage.put("request.json", canonical_json(tree | {"sha256": digest(tree)}).encode())


# --- reading ---------------------------------------------------------------------------------------------------------


def test_what_only_reads_imports_neither_the_script_nor_torch(kept: Path, tmp_path: Path) -> None:
    store = shutil.copytree(kept / "store", tmp_path / "store")  # and the script is nowhere near
    code = (
        "import sys\n"
        "from distsim.cli.main import main\n"
        "for command in ('list', 'status', 'report'):\n"
        "    assert main([command, sys.argv[1]]) == 0\n"
        "    heavy = {'torch', 'ray', 'zarr'} | ({'pandas', 'matplotlib'} if command != 'report' else set())\n"
        "    assert not heavy & sys.modules.keys(), (command, heavy & sys.modules.keys())\n"
        "assert not [name for name in sys.modules if 'wide' in name or name.startswith('distsim_script')]\n"
    )
    before = files(store)
    done = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pruned networks   2 of 2" in done.stdout
    assert "similarities      none missing" in done.stdout
    assert re.search(r"^iteration +remaining +runs +accuracy +cka +cosine +a_distance +z_spread$", done.stdout, re.M)
    assert "(cosine, a_distance: of the output layer)." in done.stdout
    assert files(store) == before, "figures have the labels that the script gave, tables the same order"
    assert any(path.startswith("figures/more_similarities_digits_wide") for path in before)


def test_status_counts_what_is_missing_by_the_stored_layers(folder: Path) -> None:
    shutil.rmtree(folder / f"store/{own_script.NAME}/runs/0001")
    (folder / "wide.py").unlink()
    status, out, err = distsim("status", folder / "store")
    assert (status, err) == (0, "")
    assert "pruned networks   1 of 2" in out
    assert "similarities      8 missing" in out  # 3 layers of cka and z_spread, one of cosine and a_distance
    assert "wide" not in MODELS


def test_an_own_metric_that_nobody_describes_damages_nothing(folder: Path) -> None:
    """As in stores that were made before metrics were described."""
    shutil.rmtree(folder / f"store/{own_script.NAME}/metrics")
    (folder / "wide.py").unlink()
    status, out, err = distsim("status", folder / "store")
    assert (status, err) == (0, "")
    assert "similarities      none missing" in out
    assert "not counted       z_spread, a_distance: unknown to distsim and to the store, run the sweep script" in out
    assert verify_store(Storage(folder / "store")).whole
    said = sentence(distsim("compare", folder / "store", *HERE))
    assert said.startswith("unknown model 'wide': the script ")


def test_without_layers_and_without_the_model_the_script_must_be_started_once(folder: Path) -> None:
    (folder / f"store/{own_script.NAME}/layers.json").unlink()
    for command in ("status", "report"):
        said = sentence(distsim(command, folder / "store"))
        assert "does not say which layers its model 'wide' has" in said
        assert said.endswith("run the sweep script once, which writes layers.json")


def test_verify_knows_what_is_described(folder: Path, undrawn: None) -> None:
    store = folder / "store"
    report = verify_store(Storage(store))
    assert [str(finding) for finding in report.findings if "shapes and masks are not checked" not in str(finding)] == []
    before = files(store)
    described = [store / own_script.NAME / name for name in ("layers.json", "metrics/z_spread.json")]
    for file in described:
        file.write_bytes(file.read_bytes().replace(b"wide_conv", b"wide_cony").replace(b"kernel", b"output"))
    damaged = sorted(str(finding) for finding in verify_store(Storage(store)).of(DAMAGED))
    assert damaged == [
        f"{own_script.NAME}/{name}: is damaged: its content does not match the digest in it"
        for name in ("layers.json", "metrics/z_spread.json")
    ]
    assert "layers.json" in sentence(distsim("status", store)) or "z_spread.json" in sentence(distsim("status", store))
    assert distsim("repair", store).status == 0
    assert not any(file.exists() for file in described)
    assert distsim("run", store, *HERE).status == 0
    after = files(store)
    assert {path: after[path] for path in before if "wide/" in path} == {
        p: d for p, d in before.items() if "wide/" in p
    }


def test_comparisons_are_checked_by_the_stored_layers(folder: Path) -> None:
    """Though the model is not known here: a comparison in a layer that is none."""
    of_network = folder / f"store/{own_script.NAME}/runs/0000/iter_01/comparison"
    shutil.copytree(of_network / "wide_conv", of_network / "wide_corn")
    damaged = [str(finding) for finding in verify_store(Storage(folder / "store")).of(DAMAGED)]
    assert any("wide_corn" in text for text in damaged)
    tree = json.loads((folder / f"store/{own_script.NAME}/layers.json").read_text())
    del tree["sha256"]
    tree["identity"] = "0" * 64
    (folder / f"store/{own_script.NAME}/layers.json").write_text(canonical_json(tree | {"sha256": digest(tree)}))
    damaged = [str(finding) for finding in verify_store(Storage(folder / "store")).of(DAMAGED)]
    assert f"{own_script.NAME}/layers.json: belongs to another sweep" in damaged


# --- computing -------------------------------------------------------------------------------------------------------


def test_run_imports_the_script_that_started_the_sweep(folder: Path, undrawn: None) -> None:
    request = SweepStore(Storage(folder / "store"), own_script.NAME).request()
    assert request.script == str(folder / "wide.py")
    assert request.script_sha256 == hashlib.sha256((folder / "wide.py").read_bytes()).hexdigest()
    status, out, err = distsim("run", folder / "store", *HERE, "--runs", 3)
    assert (status, err) == (0, "")
    assert "1 of 6 networks to train" in out
    again = SweepStore(Storage(folder / "store"), own_script.NAME).request()
    assert again == dataclasses.replace(request, extent=dataclasses.replace(request.extent, runs=3))


def test_pairs_and_layers_import_it_too(folder: Path, tmp_path: Path) -> None:
    status, out, err = distsim("pairs", folder / "store", *HERE, "--metrics", "cka", "z_spread")
    assert (status, err) == (0, "")
    assert re.search(r"^z_spread +3 ", out, re.M)
    results = folder / f"store/{own_script.NAME}/pair_results"
    assert set(pd.read_csv(results / "runs/pairs.csv")["layer"]) == {"wide_conv", "wide_pool", "out"}
    assert {"runs.png", "runs_more.png"} <= {file.name for file in (results / "runs").iterdir()}
    status, out, err = distsim("layers", folder / "store", "--metrics", "cka", "z_spread", "--out", tmp_path)
    assert (status, err) == (0, "")
    assert "wide_pool" in out


def moved(folder: Path) -> dict[str, Any]:
    (folder / "wide.py").rename(folder / "away.py")
    return {}


def edited(folder: Path) -> dict[str, Any]:
    with (folder / "wide.py").open("a") as file:
        file.write("\n# another network\n")
    return {}


def in_the_store(folder: Path) -> dict[str, Any]:
    shutil.copy(folder / "wide.py", folder / "store/wide.py")
    return {"script": str(folder / "store/wide.py")}


def in_the_store_by_a_detour(folder: Path) -> dict[str, Any]:
    shutil.copy(folder / "wide.py", folder / "store/wide.py")
    (folder / "innocent.py").symlink_to(folder / "store/wide.py")
    return {"script": str(folder / "innocent.py")}


def relative(folder: Path) -> dict[str, Any]:
    return {"script": "wide.py"}


def unrecorded(folder: Path) -> dict[str, Any]:
    return {"script": None, "script_sha256": None}


def of_another_user(folder: Path) -> dict[str, Any]:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(folder / "wide.py", 12345, -1)
    return {}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (moved, "does not exist"),
        (edited, "has changed since it started the sweep"),
        (in_the_store, "lies in the store that names it"),
        (in_the_store_by_a_detour, "lies in the store that names it"),
        (relative, "its path is not absolute"),
        (unrecorded, "the store records no script"),
        (of_another_user, "belongs to another user"),
    ],
)
@pytest.mark.parametrize("command", [("run", *HERE), ("compare", *HERE), ("pairs", *HERE), ("layers",)])
def test_a_script_that_may_not_be_imported_is_named(
    folder: Path, command: tuple[str, ...], change: Callable[[Path], dict[str, Any]], why: str
) -> None:
    asked(folder / "store", **change(folder))
    before = files(folder / "store")
    said = sentence(distsim(command[0], folder / "store", *command[1:]))
    assert said.startswith("unknown model 'wide': ")
    assert why in said
    assert said.endswith("--import FILE")
    assert "wide" not in MODELS
    assert files(folder / "store") == before


def test_a_store_that_is_no_folder_imports_nothing(folder: Path) -> None:
    """Whoever writes to a bucket could otherwise say which program of this machine is run."""
    store = SweepStore(Storage(folder / "store"), own_script.NAME)
    elsewhere: Any = SimpleNamespace(identity=store.identity, request=store.request, root=SimpleNamespace(folder=None))
    with pytest.raises(ValueError, match="the store that names it is not a local folder"):
        own_code.make_known(elsewhere, ())
    assert "wide" not in MODELS
    own_code.make_known(store, ())
    assert "wide" in MODELS


def test_a_file_that_the_user_names_is_imported(folder: Path, undrawn: None) -> None:
    """Moved and changed; from then on it is the script of the sweep."""
    edited(folder)
    moved(folder)
    store = folder / "store"
    status, out, err = distsim("compare", store, *HERE, "--metrics", "cka", "nbs", "--import", folder / "away.py")
    assert (status, err) == (0, "")
    assert re.search(r"^iteration .* nbs ", out, re.M)
    request = SweepStore(Storage(store), own_script.NAME).request()
    assert request.script == str(folder / "away.py")
    assert request.script_sha256 == hashlib.sha256((folder / "away.py").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = 1", "unknown model 'wide'"),
        ("raise RuntimeError('no')", "fails when it is imported: RuntimeError: no"),
        ("def f(:", "is not Python"),
        ("import sys; sys.exit(3)", "fails when it is imported: SystemExit: 3"),
        (
            own_script.SCRIPT.replace('if __name__ == "__main__":', "if True:"),
            "it starts its sweep on import: put that under if __name__",
        ),
    ],
)
def test_a_file_that_does_not_help_is_said_to_be_none(folder: Path, text: str, why: str) -> None:
    asked(folder / "store", script=None, script_sha256=None)
    (folder / "other.py").write_text(text)
    before = files(folder / "store")
    assert why in sentence(distsim("run", folder / "store", *HERE, "--import", folder / "other.py"))
    assert files(folder / "store") == before
    assert not own_code.imported_modules() or text == "x = 1"


def test_a_module_beside_the_script_is_found(folder: Path) -> None:
    (folder / "beside_wide.py").write_text(own_script.SCRIPT)
    (folder / "wide.py").write_text("import beside_wide\n")
    own_code.import_file(str(folder / "wide.py"))
    assert "wide" in MODELS
    del sys.modules["beside_wide"]


def test_what_comes_with_distsim_records_no_script(tmp_path: Path) -> None:
    request = Request(Extent(1, 1, metrics=("cka", "procrustes")), "", "cpu")
    assert own_code.recorded_in(request, PROBLEMS["digits"], SweepStore(Storage(tmp_path), "digits")) == request
    assert "script" not in request.as_dict(), "and requests are what they were"


@pytest.mark.parametrize(
    "script", [{"script": 3}, {"script": ""}, {"script_sha256": "no digest"}, {"script_sha256": None}, {"script": None}]
)
def test_half_a_script_is_no_request(folder: Path, script: dict[str, Any]) -> None:
    asked(folder / "store", **script)
    assert "request.json" in sentence(distsim("status", folder / "store"))


def test_workers_get_a_module_beside_the_script_by_its_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program imports its network from a file that is on no other machine."""
    from distsim.sweep.on_ray import engine as ray_engine

    (folder / "beside_the_program.py").write_text(own_script.SCRIPT)
    monkeypatch.syspath_prepend(folder)
    importlib.import_module("beside_the_program")
    one: Any = SimpleNamespace(sweep=SimpleNamespace(problem=SimpleNamespace(model="wide")))
    pickled = ray_engine.ray.cloudpickle.dumps(ray_engine.own([one]).models)
    del sys.modules["beside_the_program"]
    code = "import sys, pickle; print(len(pickle.loads(sys.stdin.buffer.read())['wide'](1, 8, 10).layers))"
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, b"3\n"), done.stderr


def test_workers_get_what_was_imported_by_its_text(folder: Path) -> None:
    """They have no module of that name: unpickling it by name would fail."""
    from distsim.sweep.on_ray import engine as ray_engine

    own_code.import_file(str(folder / "wide.py"))
    one: Any = SimpleNamespace(sweep=SimpleNamespace(problem=dataclasses.make_dataclass("P", ["model"])("wide")))
    pickled = ray_engine.ray.cloudpickle.dumps(ray_engine.own([one]))
    code = (
        "import sys, pickle\n"
        "pickle.loads(sys.stdin.buffer.read()).make_known()\n"
        "from distsim.models import MODELS\n"
        "from distsim.metrics.registry import METRICS\n"
        "print(len(MODELS['wide'](1, 8, 10).layers), METRICS['z_spread'].measure(None))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, b"3 4.5\n"), done.stderr
