"""`distsim doctor`: measure this machine, on the processor or on a GPU, or ask the machines of a cluster."""

import argparse

from distsim.cli.arguments import cluster, device_flag, positive, resolved_device, whole


def flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "problem",
        nargs="?",
        default="cifar2",
        metavar="PROBLEM",
        help="train this problem for some seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--storage",
        metavar="STORE",
        help="measure this storage; with --address, try it from each machine (default: results; with --address none)",
    )
    parser.add_argument(
        "--address",
        type=cluster,
        metavar="HOST:PORT",
        help="measure nothing, but ask each machine of the Ray cluster at this address whether a sweep can work there; "
        "it may also be auto or ray://HOST:10001",
    )
    parser.add_argument(
        "--threads",
        type=whole,
        default=1,
        metavar="N",
        help="with --address, CPU threads that each trial is to have (default: %(default)s)",
    )
    device_flag(parser, "auto")
    parser.set_defaults(device="auto")
    parser.add_argument(
        "--seconds", type=positive, default=3.0, metavar="N", help="seconds for each measurement (default: 3)"
    )


def do_doctor(flags: argparse.Namespace) -> int:
    """Measure, and print what suits this machine; or print what a cluster's machines say."""
    from distsim.cli import doctor, doctor_gpu
    from distsim.environment import require_device
    from distsim.problems import PROBLEMS

    if flags.problem not in PROBLEMS:
        raise ValueError(f"unknown problem {flags.problem!r}; the problems are {', '.join(PROBLEMS)}")
    device = resolved_device(flags.device, flags.address)
    if flags.address is not None:
        from distsim import extras
        from distsim.cli import doctor_cluster
        from distsim.sweep.cluster import require_answer

        extras.require("doctor --address", ["ray"])
        require_answer(flags.address)
        return 0 if doctor_cluster.examine(flags.address, flags.storage, device, flags.threads) else 1
    require_device(device)
    storage = flags.storage or "results"
    if device == "cuda":
        doctor_gpu.examine(PROBLEMS[flags.problem], storage, enough=flags.seconds)
    else:
        doctor.examine(PROBLEMS[flags.problem], storage, device, enough=flags.seconds)
    return 0
