"""The types of command-line flags, flags that several commands have, and the device that is meant."""

import argparse
import re
from typing import Any, get_args

from distsim.cli.ending import say
from distsim.specs import CONTROLS, MEASURES, MOST, NULL_PERMUTATIONS, Device, DeviceChoice, Measure, shown

ENOUGH_FOR_Z = 20  # distsim.metrics.null.PERMUTED, which takes NumPy to import


def positive(text: str) -> float:
    """Read an amount of a resource. ArgumentTypeError: it is not a number above zero, or it is above 10⁹."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MOST:  # infinity is refused too
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is not a number above zero" + f" and up to {MOST:,}" * (value > MOST)
        )
    return value


def whole(text: str) -> int:
    """Read a whole number. ArgumentTypeError: it is not one, or it needs more than 64 bits."""
    try:
        value = int(text)
    except ValueError:
        value = 2**63
    if abs(value) >= 2**63:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number" + " of 64 bits" * text.isdigit())
    return value


def cluster(text: str) -> str:
    """Read the address of a Ray cluster. ArgumentTypeError: it is not one.

    Ray itself would import a module with the name of an unknown scheme.
    """
    address = re.fullmatch(r"(?:ray://)?[^\s/:@]+:([0-9]{1,5})", text)
    if text not in ("auto", "local") and not (address and 0 < int(address[1]) < 2**16):
        raise argparse.ArgumentTypeError(f"{shown(text)} is neither auto nor HOST:PORT nor ray://HOST:PORT")
    return text


def control_flags(group: Any, default: str, default_runs: str) -> None:
    """Add --control and --control-runs to a parser or a group. default, default_runs : what --help says of defaults"""
    group.add_argument(
        "--control",
        nargs="+",
        choices=(*CONTROLS, "none"),
        metavar="NAME",
        action=_Controls,
        help="runs beside the pruned ones, to tell what pruning does: retrain, which is rewound and trained as often "
        f"and never pruned; random, pruned of as many parameters at random; or none {default}",
    )
    group.add_argument(
        "--control-runs", type=whole, metavar="N", help=f"number of runs of each control, at most --runs {default_runs}"
    )


class _Controls(argparse.Action):
    """Reads the names of controls, in their order; `none` stands alone."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        if "none" in values and len(set(values)) > 1:
            parser.error(f"argument --control: none stands alone, got {' '.join(values)}")
        setattr(namespace, self.dest, tuple(name for name in CONTROLS if name in values))


def resolved_device(device: DeviceChoice, address: str | None) -> Device:
    """Return the device as `distsim.environment.resolved_device` does; import PyTorch only for `auto`."""
    if device != "auto":
        return device
    from distsim import environment

    return environment.resolved_device(device, address)


def measure_flags(parser: Any) -> None:
    """Add the flags that say what is measured beside the values. `measured` reads them."""
    parser.add_argument(
        "--measure",
        nargs="+",
        choices=(*get_args(Measure), "none"),
        metavar="WHAT",
        help="measure more beside the values: null, what each is by chance, from permuted examples at every "
        "iteration of run 0; se, its standard error over examples; se_nbs, that of NBS and of other metrics that "
        "take as long for it as ten values; functional, predictions for the test images compared with the complete "
        f"network's; none (default: what the store was asked for last; of a new one {', '.join(MEASURES)})",
    )
    parser.add_argument(
        "--permutations",
        type=whole,
        metavar="N",
        help=f"number of permutations for the null; from {ENOUGH_FOR_Z} on they give z, too (default: as for "
        f"--measure; {NULL_PERMUTATIONS})",
    )


def se_flag(parser: Any) -> None:
    """Add the flag that asks for standard errors over examples where networks are compared with each other."""
    parser.add_argument(
        "--measure",
        nargs="+",
        choices=("se", "se_nbs"),
        default=(),
        metavar="WHAT",
        help="measure more beside the values: se, their standard error over examples; se_nbs, that of NBS and of "
        "other metrics that take as long for it as ten values (default: nothing)",
    )


def measured(flags: argparse.Namespace) -> dict[str, Any]:
    """Return what `measure_flags` were given, None where a flag was not."""
    return {"measure": () if flags.measure == ["none"] else flags.measure, "permutations": flags.permutations}


def store_flags(parser: argparse.ArgumentParser) -> None:
    """Add the store that a command works on, and --problem."""
    parser.add_argument("store", metavar="STORE", help="the sweep's --storage: a folder, or s3://bucket/prefix")
    parser.add_argument("--problem", metavar="NAME", help="work on this problem of the store only (default: on all)")


def device_flag(parser: Any, default: str) -> None:
    """Add --device without a default value. default : what --help says of it"""
    parser.add_argument(
        "--device",
        choices=get_args(DeviceChoice),
        help="compute on the CPU, on a GPU (cuda), or on a GPU if there is one, else the CPU (auto) (default: "
        f"{default})",
    )


def dry_run_flag(parser: Any) -> None:
    """Add --dry-run to a command that computes."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only say what the store lacks of this and what it would cost; write nothing",
    )


def workplace_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where a command on a store computes, and with what."""
    parser.set_defaults(allow_slow=False)  # only what trains has the flag
    dry_run_flag(parser)
    parser.add_argument("--local", action="store_true", help="do everything in this process, in order, without Ray")
    parser.add_argument(
        "--address",
        type=cluster,
        metavar="HOST:PORT",
        help="work on the Ray cluster at this address, or on the one of this machine (auto) (default: start Ray on "
        "this machine)",
    )
    device_flag(parser, "as last asked for")
    parser.add_argument(
        "--data",
        metavar="WHERE",
        help="take the images from here, written as for `distsim sweep` (default: as last asked for)",
    )
    parser.add_argument("--cpus", type=positive, metavar="N", help="CPUs for each trial (default: one for each thread)")
    parser.add_argument("--gpus", type=positive, metavar="N", help="GPUs for each trial (default: 1 on a GPU)")
    parser.add_argument(
        "--allow-drift",
        action="store_true",
        help="go on although versions or device are not the store's; this is recorded with each result",
    )


def former(parser: Any, old: str, new: str) -> None:
    """Let a flag be given under its former name for one more release. It is not in --help."""
    action = parser._option_string_actions[new]
    kept = {"dest": action.dest, "nargs": action.nargs, "type": action.type, "default": action.default}
    parser.add_argument(old, action=_Former, of=action, help=argparse.SUPPRESS, **kept)


class _Former(argparse.Action):
    """Does what the flag with the new name does, and says what that is."""

    def __init__(self, *names: Any, of: argparse.Action, **more: Any) -> None:
        super().__init__(*names, **more)
        self._of = of

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        say(f"{option} is now {self._of.option_strings[0]}; the old name goes in the release after next")
        self._of(parser, namespace, values, option)


def own_code_flag(parser: argparse.ArgumentParser) -> None:
    """Add --import, for commands that compute with the user's own networks and metrics."""
    parser.add_argument(
        "--import",
        dest="imported",
        metavar="FILE",
        help="import this script, which registers your own networks, metrics and criteria (default: the script that "
        "started the sweep, if it was not changed, lies outside the store, and the store is a folder)",
    )
