"""Does the demo's complete network train well with every seed? One network per seed, on the CPU, about 2 s each.

Exit status 1: the test accuracy of a seed is at or below 97 %. Processors differ in the last bits of a sum, and so in
accuracies. To see other bits on this one, set ATEN_CPU_CAPABILITY (default, avx2), ONEDNN_MAX_CPU_ISA (SSE41, AVX2) or
MKL_CBWR (COMPATIBLE, AVX2) in the environment, or choose other --threads.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence

import machine
import torch
from report import Table

from distsim.data import load
from distsim.environment import threads
from distsim.problems import PROBLEMS
from distsim.sweep.order import identify
from distsim.training.chain import Trainer

LEAST = 0.97  # every seed must be above it
KERNELS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR")


def main(arguments: Sequence[str] | None = None) -> int:
    flags = _parser().parse_args(arguments)
    print(f"{machine.describe(flags.threads)}; {_kernels()}\n", flush=True)
    trained = accuracies(flags.seeds, flags.threads)
    table = Table(("seed", "accuracy"))
    for seed, accuracy in enumerate(trained):
        table.add(str(seed), _percent(accuracy))
    low = [seed for seed, accuracy in enumerate(trained) if accuracy <= LEAST]
    verdict = f"at or below {_percent(LEAST)}: {', '.join(map(str, low))}" if low else f"all above {_percent(LEAST)}"
    least, median = _percent(min(trained)), _percent(statistics.median(trained))
    table.notes.append(f"min {least}, median {median}, max {_percent(max(trained))}; {verdict}")
    print(table.markdown())
    return 1 if low else 0


def accuracies(seeds: int, count: int) -> list[float]:
    """Train the complete network of each seed from 0 on, and return the test accuracies. count : threads."""
    problem = PROBLEMS["digits"]
    data = load(problem, "")
    with threads(count):
        identities = (identify(problem, data, seed=seed, threads=count) for seed in range(seeds))
        return [Trainer(identity, data).complete().record["accuracy"] for identity in identities]


def _kernels() -> str:
    """Name what decides the last bits besides the processor: torch's kernels, and settings in the environment."""
    forced = [f"{name}={os.environ[name]}" for name in KERNELS if name in os.environ]
    return ", ".join([f"torch's kernels for {torch.backends.cpu.get_cpu_capability()}", *forced])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=_positive, default=32, help="number of seeds, from 0 on (default: %(default)s)")
    parser.add_argument("--threads", type=_positive, default=1, help="threads of each training (default: %(default)s)")
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
