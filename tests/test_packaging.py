"""The package as a user gets it: its wheel, its extras, what it says where one is missing, the files around it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from without_extras import BARE

import distsim
from distsim import extras
from distsim.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "skdim": "scikit-dimension"}  # where names differ
BASE = ("numpy", "array_api_compat")


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!;]", text)[0].strip() for text in requirements}


def test_each_library_is_in_its_extra() -> None:
    optional = PROJECT["optional-dependencies"]
    for module, extra in extras.EXTRA.items():
        if extra != "gpu":  # whose package has the version of CUDA in its name
            assert DISTRIBUTIONS.get(module, module) in names(optional[extra]), module
    for extra in set(extras.EXTRA.values()) - {"gpu"}:
        ours = {DISTRIBUTIONS.get(m, m) for m, e in extras.EXTRA.items() if e == extra}
        assert names(optional[extra]) == ours, extra
    assert names(PROJECT["dependencies"]) == {name.replace("_", "-") for name in BASE}
    (everything,) = optional["all"]
    assert set(re.findall(r"[\w-]+", everything)[1:]) >= set(extras.EXTRA.values()) - {"gpu"} - {extras.DISTRIBUTION}
    assert PROJECT["name"] == extras.DISTRIBUTION


def test_commands_need_extras_that_there_are() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    for command in COMMANDS:
        assert set(command.needs) <= set(PROJECT["optional-dependencies"])
        assert f"| `{command.name}` | {command.does} | {', '.join(command.needs) or 'no extra'} |" in page


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, and no other trace of the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"
    shutil.copytree(ROOT / "distsim", source / "distsim", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "import sys\nfrom setuptools.build_meta import build_wheel\nprint(build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", code, folder], cwd=source, capture_output=True, text=True, timeout=120
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_the_wheel_says_whose_it_is(unpacked: Path) -> None:
    (about,) = unpacked.glob("distsim_imp-*.dist-info")
    text = (about / "METADATA").read_text()
    for line in (
        "Name: distsim-imp",
        "License-Expression: MIT",
        "Author: The distsim authors",
        "License-File: LICENSE",
    ):
        assert f"\n{line}\n" in text
    assert (about / "licenses" / "LICENSE").is_file()
    assert {path.name for path in unpacked.iterdir()} == {"distsim", about.name}
    assert list(unpacked.glob("distsim/results/report/assets/vendor/*"))
    assert "distsim = distsim.cli.main:main" in (about / "entry_points.txt").read_text()


RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from distsim.cli.main import main; sys.exit(main())"


def test_the_wheel_runs_problems_outside_the_repository(unpacked: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", RUN, unpacked, *line],
            cwd=tmp_path,
            env=environment | {"DISTSIM_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=300,
        )

    small = (
        "--runs",
        "1",
        "--iterations",
        "1",
        "--epochs",
        "1",
        "--train-limit",
        "100",
        "--probe",
        "50",
        "--no-chance",
    )
    done = run("sweep", "digits", "--local", *small, "--metrics", "cka", "--control", "none")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "results/digits/report.html").is_file()
    for split in ("train", "test"):
        for name in ("automobile", "truck"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(40):
                write_image(tmp_path / "images" / split / name / f"{number}.png", number)
    told = run("sweep", "cifar2", "--local", "--dry-run", "--data", "folder:images", "--probe", "20")
    assert (told.returncode, told.stderr) == (0, "")
    assert "networks to train" in told.stdout
    assert not (tmp_path / "results/cifar2").exists()


def write_image(file: Path, number: int) -> None:
    from PIL import Image

    Image.new("RGB", (32, 32), (number, 5 * number, 200)).save(file)


def bare(code: str, *line: str) -> subprocess.CompletedProcess[str]:
    """A program in an environment with the base dependencies only."""
    head = f"NEEDED = {(*BASE, 'distsim')!r}\n{BARE}\nsys.path.insert(0, {str(ROOT)!r})\n"
    return subprocess.run([sys.executable, "-c", head + code, *line], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.needs], ids=lambda c: c.name)
def test_a_command_without_its_extras(command: object) -> None:
    line = re.sub(r"--data .*", "", f"{command.name} {command.example}").split()  # type: ignore[attr-defined]
    done = bare("from distsim.cli.main import main\nsys.exit(main())", *line)
    assert (done.returncode, done.stdout) == (2, "")
    (said,) = done.stderr.splitlines()
    needed = ",".join(command.needs)  # type: ignore[attr-defined]
    assert re.search(rf"not installed: pip install 'distsim-imp\[({needed}(,ray)?|train,store,ray,report)\]'$", said)


@pytest.mark.parametrize("line", [["--help"], ["sweep", "cifar2", "--help"], ["completion", "zsh"]])
def test_what_needs_no_extra(line: list[str]) -> None:
    done = bare("from distsim.cli.main import main\nsys.exit(main())", *line)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("name", ["run", "open", "compare", "Problem", "Study"])
def test_a_name_without_its_extras(name: str) -> None:
    done = bare(f"import distsim\ntry:\n    distsim.{name}\nexcept ImportError as error:\n    print(error)")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"distsim\.{name} needs .* pip install 'distsim-imp\[train[a-z,]*\]'\n", done.stdout)


def test_a_metric_without_scipy() -> None:
    code = "import numpy, distsim\ntry:\n    distsim.metrics.rsa(numpy.eye(5), numpy.eye(5))\n"
    done = bare(f"{code}except ImportError as error:\n    print(error)")
    assert done.stdout == "rsa needs SciPy, which is not installed: pip install 'distsim-imp[report]'\n", done.stderr


LOCKED = {  # what each list must at least have
    "all.txt": {"torch", "ray", "obstore", "pandas", "numpy"},
    "cluster.txt": {"torch", "ray", "obstore", "cupy-cuda13x", "aiohttp", "boto3", "setuptools"},
    "uv.txt": {"uv"},
}


@pytest.mark.parametrize("name", LOCKED)
def test_hashes_are_of_the_pinned_versions(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    found = dict(re.findall(r"^([\w.-]+)==(\S+) \\$", text, re.M))
    assert found.keys() >= LOCKED[name]
    assert {each: found[each] for each in found.keys() & pinned.keys()}.items() <= pinned.items()
    unpinned = found.keys() - pinned.keys()  # what only Ray's dashboard and autoscaler need
    assert not unpinned if name != "cluster.txt" else "ray" not in unpinned and "aiohttp" in unpinned
    assert text.count("--hash=sha256:") >= len(found)
    assert "://" not in text


def test_the_citation() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == distsim.__version__
    assert cited["license"] == PROJECT["license"]
    assert [reference["year"] for reference in cited["references"]] == [2020, 2021]
    page = " ".join((ROOT / "docs" / "metrics.md").read_text().split())
    assert all(reference["title"] in page for reference in cited["references"])


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_what_a_dockerfile_copies_is_there(name: str) -> None:
    lines = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    let_through = (ROOT / ".dockerignore").read_text().split()
    assert copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in let_through, path
    uv = re.search(r"^uv==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert uv is not None
    hashed = f"uv=={uv[1]} " in (ROOT / "requirements" / "uv.txt").read_text() and "requirements" in copied
    assert any(f"uv=={uv[1]} " in line or (hashed and "-r requirements/uv.txt" in line) for line in lines)
    assert any(line.startswith("USER ") for line in lines)
    python = re.search(r"^FROM python:(3\.\d+)", "\n".join(lines), re.M)
    assert python is not None
    assert f"--python-version {python[1]}" in (ROOT / "Makefile").read_text()
