"""The types of command-line flags, flags that several commands have, and the device that is meant."""

import argparse
import re
from typing import Any, get_args

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
        "--control-runs", type=whole, metavar="N", help=f"runs of each control, at most --runs {default_runs}"
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
        help="beside the values: null, what each is by chance, from permuted examples at every iteration of run 0; se, "
        "its standard error over examples; se_nbs, that of NBS and of other metrics that take as long for it as ten "
        "values; functional, predictions for the test images compared with the complete network's; none (default: what "
        f"the store was asked for last; of a new one {', '.join(MEASURES)})",
    )
    parser.add_argument(
        "--permutations",
        type=whole,
        metavar="N",
        help=f"permutations for the null; from {ENOUGH_FOR_Z} on they give z, too (default: as for --measure; "
        f"{NULL_PERMUTATIONS})",
    )


def se_flag(parser: Any) -> None:
    """Add the flag that asks for standard errors over examples where networks are compared with each other."""
    parser.add_argument(
        "--measure",
        nargs="+",
        choices=("se", "se_nbs"),
        default=(),
        metavar="WHAT",
        help="beside the values: se, their standard error over examples; se_nbs, that of NBS and of other metrics that "
        "take as long for it as ten values (default: nothing)",
    )


def measured(flags: argparse.Namespace) -> dict[str, Any]:
    """Return what `measure_flags` were given, None where a flag was not."""
    return {"measure": () if flags.measure == ["none"] else flags.measure, "permutations": flags.permutations}
