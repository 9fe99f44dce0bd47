"""Types of flags, and what flags amount to."""

import argparse
import re

from distsim.specs import MOST, Device, DeviceChoice, shown


def positive(text: str) -> float:
    """An amount of a resource. ArgumentTypeError: not above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MOST:  # nor is infinity, which no machine has
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is no number above zero" + f" and up to {MOST:,}" * (value > MOST)
        )
    return value


def whole(text: str) -> int:
    """A whole number. ArgumentTypeError: it is none, or longer than anything here can be."""
    try:
        value = int(text)
    except ValueError:
        value = 2**63
    if abs(value) >= 2**63:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no whole number" + " of 64 bits" * text.isdigit())
    return value


def cluster(text: str) -> str:
    """The address of a Ray cluster. ArgumentTypeError: it is none; Ray would import a module of its scheme's name."""
    found = re.fullmatch(r"(?:ray://)?[^\s/:@]+:([0-9]{1,5})", text)
    if text not in ("auto", "local") and not (found and 0 < int(found[1]) < 2**16):
        raise argparse.ArgumentTypeError(f"{shown(text)} is neither auto nor HOST:PORT nor ray://HOST:PORT")
    return text


def resources(flags: argparse.Namespace, device: str) -> tuple[tuple[str, float], ...]:
    """Of one trial, as Ray wants them."""
    from distsim.sweep.order import trial_resources

    return trial_resources(device, flags.threads, flags.cpus, flags.gpus)


def resolved_device(device: DeviceChoice, address: str | None) -> Device:
    """What `auto` means here. On a cluster the driver may have no GPU, so there it is asked for by name."""
    if device != "auto":
        return device
    from distsim import environment

    return environment.resolved_device(device, address)
