"""What needs what: the core runs without the edges' libraries, and no stage imports a later one."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from without_extras import BARE

import distsim

PACKAGE = Path(distsim.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Every module, from the ground up. A module imports from those before it only, also inside its functions.
ORDER = """
_version
trace stopping callbacks words extras plotting seeds
metrics: reads rounding arrays linalg polar roots channels cosine kernels jackknife
metrics: functional mean_cca pwcca svcca channels_only null cka distances dimension nbs
metrics: rsa neighbours soft_matching predictivity repository . registry
specs: canonical fields changes json_shape layer_names networks problem sweep .
environment problems processor tf32 named_files
data: augment dataset mat digits fit formats folder loose published load arrays .
models: answers layers lenet5 resnet_fast vgg calls compared contract .
activations: . layout probe
training: . optimizers pruning criteria streams compiling stepper checkpoint loop early_stopping chain
training: fused fusible kernels tails fused_stepper group connectivity alignment
comparison: . devices arguments inputs choosing progress recording given sides measured pair spread beside
comparison: heatmaps similarities several layer models
store: aws local exclusive reasons remote storage commits control lease fenced epochs arrays activations described
store: paths records readable contents sweep_store logits descriptions
store: existing . checkpoints
results: . claims nulls columns parquet_pages table_files tables functional claims.study figure_names looks titles
results: marks beside panels keys
results: accuracy_figures layer_figures output_figures functional_figures iteration_maps figures text
results: claims.parts pairs committed reduce claims.papers claims.judging claims.images claims.multiverse
results: study_record published merging rows ladder
results: report claims.words report.words report.arrays report.sentences report.parts report.page report.writing
results: archive
sweep: . heeding beside cost training_memory exact behaviour kept_behaviour extraction failures
sweep: plan jobs cluster own_code stored_models events
sweep: on_device comparison_worker order training_worker chain_training trials engine preflight on_ray on_ray.hosts
sweep: on_ray.room on_ray.cluster on_ray.deaths on_ray.parcels on_ray.trials on_ray.comparisons on_ray.early
sweep: on_ray.engine forecast pairs run status
sweep: kept board elsewhere live at_work
sweep: proof retraining ladder
verify: . report unfinished listing networks derived descriptions lineage walk store repair
api: . arguments problem data drawing exporting network showing study published opening running
cli: ending . arguments doctor doctor_gpu doctor_cluster output controlling progress run studies proving commands
cli: checking pairing
cli: drawing reporting claiming ladder doctoring sweeps named_models compare_models
cli: sweep_command exporting completion main __main__
script stages __main__
"""


def stated() -> list[str]:
    """The modules in their order; a dot is a package itself."""
    found = []
    for line in ORDER.strip().splitlines():
        package, colon, names = line.rpartition(":")
        found += [
            f"distsim.{package}.{name}".removesuffix("..") if colon else f"distsim.{name}" for name in names.split()
        ]
    return found


def module_name(file: Path) -> str:
    parts = ["distsim", *file.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULE_NAMES = {module_name(file) for file in FILES}


def imported(file: Path, everywhere: bool = True) -> set[str]:
    """Modules that a file imports; with `everywhere` also inside functions."""
    tree = ast.parse(file.read_text())
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            base = node.module or ""
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= names if names <= MODULE_NAMES else names | {base}
    return found


MODULES = {module_name(file): file for file in FILES}


def within(file: Path, everywhere: bool = True) -> set[str]:
    return {name for name in imported(file, everywhere) if name in MODULES} - {"distsim"}


ON_RAY = "distsim.sweep.on_ray"


def test_only_the_engine_on_ray_and_doctor_import_ray() -> None:
    users = {name for name, file in MODULES.items() if "ray" in {one.split(".")[0] for one in imported(file)}}
    assert {name for name in users if not name.startswith(f"{ON_RAY}.")} <= {"distsim.cli.doctor_cluster"}
    assert f"{ON_RAY}.engine" in users


def test_the_engine_on_ray_is_imported_only_where_it_is_used() -> None:
    for name, file in MODULES.items():
        if not name.startswith(ON_RAY):
            on_import = imported(file, everywhere=False)
            assert not [one for one in on_import if one.startswith(ON_RAY)], file


def test_the_order_names_every_module_once() -> None:
    assert sorted(stated()) == sorted(set(MODULES) - {"distsim"})


@pytest.mark.parametrize("place", range(len(stated())), ids=stated())
def test_a_module_imports_only_from_those_before_it(place: int) -> None:
    name = stated()[place]
    assert within(MODULES[name]) - {name} <= set(stated()[:place])


def test_the_face_imports_nothing_at_once() -> None:
    assert within(MODULES["distsim"], everywhere=False) <= {"distsim._version"}


BLOCKED = ("ray", "zarr", "pyarrow", "pandas", "obstore", "matplotlib")

WITHOUT_EDGES = """
import sys, warnings
warnings.simplefilter("error")

class NotInstalled:
    # every finder there was, blind to the blocked names
    def __init__(self, finders):
        self.finders = finders
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in BLOCKED:
            for finder in self.finders:
                if spec := finder.find_spec(name, path, target):
                    return spec
        return None
sys.meta_path[:] = [NotInstalled(list(sys.meta_path))]

import importlib
for name in BLOCKED:
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} is not blocked")
for module in MODULES:
    importlib.import_module(module)

import dataclasses
import numpy as np
import torch
torch.set_num_threads(1)
from distsim.activations.probe import blocks, make_probe
from distsim.comparison.layer import Reference
from distsim.comparison.sides import InMemory
from distsim.data import Dataset
from distsim.environment import threads
from distsim.metrics import cka
from distsim.models import build
from distsim.problems import PROBLEMS
from distsim.specs import PAPER_METRICS, Identity
from distsim.training.chain import Trainer

rng = np.random.default_rng(0)
labels = np.arange(60) % 3
images = (labels[:, None, None, None] * 80 + rng.integers(0, 60, (60, 1, 8, 8))).astype(np.uint8)
dataset = Dataset(images, labels, images[:9], labels[:9], ("a", "b", "c"))
problem = PROBLEMS["digits"].reduced_to(epochs=2, probe=40)
recipe = dataclasses.replace(problem.recipe, normalise=((0.5,), (0.3,)), batch_size=16)
identity = Identity(dataclasses.replace(problem, recipe=recipe, classes=dataset.classes), dataset.digest)
with threads(1):  # threadpoolctl, which the core has too
    trainer = Trainer(identity, dataset)
    complete = trainer.complete()
    *_, last = trainer.chain(0, complete, iterations=2)
    probe, sides = make_probe(identity, dataset), []
    for step in (complete, last):
        network = build(identity.problem, 3)
        network.load_state_dict(step.weights)
        sides.append(np.concatenate([block["pool2"].numpy() for block in blocks(network, probe)]))
    value = cka(*sides, channels_last=True)
    streamed = Reference(InMemory(sides[0]), PAPER_METRICS).compare(InMemory(sides[1]))["cka"]["value"]
assert last.iteration == 2 and last.record["remaining"] < 1
assert 0 < value < 1 and abs(value - streamed) < 1e-10, (value, streamed)
assert not {name.split(".")[0] for name in sys.modules} & set(BLOCKED)
print("done")
"""


def test_the_core_runs_without_the_edges_libraries() -> None:
    names = (
        "",
        ".metrics",
        ".models",
        ".training.loop",
        ".training.chain",
        ".activations.probe",
        ".comparison.layer",
        ".comparison.models",
        ".specs",
        ".data",
    )
    modules = tuple(f"distsim{name}" for name in names)
    code = f"BLOCKED, MODULES = {BLOCKED!r}, {modules!r}\n{WITHOUT_EDGES}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
    assert done.stderr == ""


def test_the_help_of_the_command_needs_no_torch() -> None:
    code = "import sys, distsim.cli.commands, distsim.cli.sweeps; print('torch' in sys.modules, 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False False\n"


METRICS_NEED = ("numpy", "array_api_compat", "distsim")
METRICS_ALONE = """
import sys, warnings
warnings.simplefilter("error")

sys.path.insert(0, FOLDER)

import numpy as np
import distsim
metrics = distsim.metrics
rng = np.random.default_rng(0)
for n, p, q in ((40, 5, 7), (700, 800, 900), (700, 600, 900)):  # small sides, Gram matrices, one of each
    X = rng.normal(size=(n, p))
    Y = X @ rng.normal(size=(p, q)) + rng.normal(size=(n, q))
    for name in ("cka", "cka_unbiased", "nbs", "procrustes"):
        value = getattr(metrics, name)(X, Y)
        assert 0 < value < 1, (name, value)
        print(name, n, p, repr(value))
X, Y = X[:, :30], Y[:, :30]
for name in ("mean_cca", "mean_squared_cca", "svcca", "pwcca", "cka_channels", "nbs_channels", "cosine"):
    print(name, repr(getattr(metrics, name)(X, Y)))
try:
    metrics.intrinsic_dimension(X)
except ValueError as error:
    assert "pip install 'distsim-imp[dimension]'" in str(error), error
else:
    raise SystemExit("scikit-dimension is not blocked")
from distsim.metrics.registry import METRICS
assert len(METRICS) > 10
third = {name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
assert not third & {"torch", "scipy", "skdim", "pandas"}, third
"""


def test_metrics_need_numpy_alone() -> None:
    """Every metric is there without torch, and gives the value that it gives with it, to rounding."""
    code = f"NEEDED, FOLDER = {METRICS_NEED!r}, {str(PACKAGE.parent)!r}\n{BARE}{METRICS_ALONE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 3 * 4 + 7
    rng = np.random.default_rng(0)
    for n, p, q in ((40, 5, 7), (700, 800, 900), (700, 600, 900)):
        X = rng.normal(size=(n, p))
        Y = X @ rng.normal(size=(p, q)) + rng.normal(size=(n, q))
        for name in ("cka", "cka_unbiased", "nbs", "procrustes"):
            (line,) = [line for line in lines if line.startswith(f"{name} {n} {p} ")]
            np.testing.assert_allclose(getattr(distsim.metrics, name)(X, Y), float(line.split()[-1]), rtol=1e-9)


def test_the_former_name_of_trace_can_be_used_for_one_more_release() -> None:
    code = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    from distsim import stages\n"
        "from distsim import trace\n"
        "assert stages.announce is trace.announce and stages is trace\n"
        "assert [str(one.message) for one in caught] == ['distsim.stages is now distsim.trace']\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
