"""Hosts on which a sweep cannot work, or would give other results: what is said of them, and that it does without.

Each function returns what is not as it must be, as in scenarios.py.
"""

import shutil
import time
from contextlib import suppress

from cluster.hosts import FOLDER, ROOT, STATE, HostsFailed, until
from cluster.launch import sweep
from cluster.scenarios import FLAGS, HEAD, Study, Wrong, with_cluster
from faults.nodes import SICK

OTHER_BLAS = "export OPENBLAS_CORETYPE=Prescott"
NO_GPU = """export RAY_OVERRIDE_RESOURCES='{"GPU": 1}'"""  # Ray believes it
ON_GPU = "--device cuda --allow-drift"  # the hosts differ by their code


def sick_host(expected: dict[str, str]) -> Wrong:
    """distsim cannot be imported on one of three hosts. The sweep ends with the others, and names it."""

    def play(study: Study) -> Wrong:
        running = study.by_exec()
        wrong = study.end(running)
        times = running.log.read_text(errors="replace").count("dst3 gets no work: Module")  # a terminal wraps the rest
        return wrong if times == 2 else [*wrong, f"dst3 is named {times} times, not twice:\n{running.said()}"]

    return with_cluster(play, expected, ill={3: without_code(3)})


def without_code(host: int) -> str:
    """A line for a host's shells, after which its Python does not find distsim."""
    folder = FOLDER / f"without{host}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(SICK.format(lost="/"))
    return f"export PYTHONPATH={folder}:$PYTHONPATH"


def other_code(host: int) -> str:
    """A line for a host's shells, after which its Python finds a copy of distsim that differs by a comment."""
    folder = FOLDER / f"other{host}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "distsim", folder / "distsim", ignore=shutil.ignore_patterns("__pycache__"))
    with open(folder / "distsim" / "seeds.py", "a") as file:
        file.write("# other\n")
    return f"export PYTHONPATH={folder}:$PYTHONPATH"


def ahead(host: int) -> str:
    """A line for a host's shells, after which its Python takes it to be two minutes later."""
    folder = FOLDER / f"ahead{host}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text("import time\n\nhere = time.time\ntime.time = lambda: here() + 120\n")
    return f"export PYTHONPATH={folder}:$PYTHONPATH"


def told(expected: dict[str, str]) -> Wrong:
    """What `distsim doctor --address` and a sweep say of hosts that are ill, and after how long."""

    def code(study: Study) -> Wrong:
        differs = "dst3: it has distsim "
        wrong = answered(
            study, "doctor", doctor(study), "dst2 gets no work: ", "No module named", "dst3 differs: it has"
        )
        wrong += answered(study, "a sweep", sweep(study.storage, FLAGS), "machines of the Ray cluster differ", differs)
        large = [*FLAGS, "--threads", "7"]
        wrong += answered(study, "threads", sweep(f"{study.storage}-7", large), "waiting for a machine with 7 CPU")
        on_gpu = f"{sweep(f'{study.storage}-gpu', FLAGS)} {ON_GPU}"
        return wrong + answered(study, "no GPU", on_gpu, "waiting for a machine with 1 GPU")

    def store(study: Study) -> Wrong:
        differ = "dst2 differs: BLAS kernels ", "dst3 differs: its clock is 1"
        wrong = answered(study, "other BLAS, another time", doctor(study), *differ)
        wrong += answered(study, "another time, a sweep", sweep(study.storage, FLAGS), "dst3: its clock is 1")
        wrong += answered(
            study, "a GPU that is none", f"{doctor(study)} --device cuda", "dst2 gets no work: PyTorch finds"
        )
        share = study.hosts.share
        study.hosts.run(3, f"mount --bind {share} {share} && mount -o remount,ro,bind {share}")
        wrong += answered(study, "read-only", doctor(study), "dst3 gets no work: cannot write")
        study.hosts.run(3, f"umount {share} && mount -t tmpfs tmpfs {share}")
        return wrong + answered(study, "not shared", doctor(study), "dst3 gets no work: it does not see in")

    wrong = with_cluster(code, expected, ill={2: without_code(2), 3: other_code(3)})
    return wrong + with_cluster(store, expected, ill={2: f"{OTHER_BLAS}; {NO_GPU}", 3: ahead(3)})


def doctor(study: Study) -> str:
    return f"distsim doctor --address auto --storage {study.storage}"


def answered(study: Study, what: str, command: str, *sentences: str) -> Wrong:
    """Run a command on the head, and print what it says and when. What it does not say of these sentences.

    It runs in the home folder: Ray lets workers import from the folder in which a driver was started.
    """
    began = time.monotonic()
    log = STATE / "told.log"
    log.unlink(missing_ok=True)
    process = study.hosts.start(HEAD, f"cd ~; export PYTHONUNBUFFERED=1; {command}", log)
    with suppress(HostsFailed):
        until(lambda: process.poll() is not None or all(s in log.read_text() for s in sentences), what, 120)
    took = time.monotonic() - began
    process.terminate()
    process.wait()
    said = log.read_text()
    print(f"--- {what}, {took:.0f} s\n{said.strip()}", flush=True)
    return [f"{what}: not said: {sentence}" for sentence in sentences if sentence not in said]


SCENARIOS = {play.__name__: play for play in (sick_host, told)}
