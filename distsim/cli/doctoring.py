"""`distsim doctor`: measure this machine, on the processor or on a GPU."""

import argparse

from distsim.cli.arguments import device_flag, positive, resolved_device


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
        "--storage", metavar="STORE", default="results", help="measure this storage (default: %(default)s)"
    )
    device_flag(parser, "auto")
    parser.set_defaults(device="auto")
    parser.add_argument(
        "--seconds", type=positive, default=3.0, metavar="N", help="seconds for each measurement (default: 3)"
    )


def do_doctor(flags: argparse.Namespace) -> int:
    """Measure, and print what suits this machine."""
    from distsim.cli import doctor, doctor_gpu
    from distsim.environment import require_device
    from distsim.problems import PROBLEMS

    if flags.problem not in PROBLEMS:
        raise ValueError(f"unknown problem {flags.problem!r}; the problems are {', '.join(PROBLEMS)}")
    device = resolved_device(flags.device, None)
    require_device(device)
    if device == "cuda":
        doctor_gpu.examine(PROBLEMS[flags.problem], flags.storage, enough=flags.seconds)
    else:
        doctor.examine(PROBLEMS[flags.problem], flags.storage, device, enough=flags.seconds)
    return 0
