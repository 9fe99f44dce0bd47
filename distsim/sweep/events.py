"""The events of a sweep (`distsim.callbacks`), as a worker or an engine makes them."""

from collections.abc import Sequence

from distsim.callbacks import Event
from distsim.specs import NetworkId, Sweep
from distsim.sweep.plan import Chain


def whose(problem: str, network: NetworkId) -> Event:
    """Return what an event says of the network that it is about."""
    return {
        "problem": problem,
        "run": network.run,
        "iteration": network.iteration,
        "complete": network.complete,
        "control": network.control,
    }


def network_of(event: Event) -> NetworkId:
    """Return the network that an event is about. It may lack what has its usual value."""
    return NetworkId(event["run"], event["iteration"], event.get("complete", 0), event.get("control", ""))


def training(sweep: Sweep, training_images: int, network: NetworkId, last: int) -> Event:
    """Return the event of a training that begins.

    training_images : of the data set; last : the last iteration of the run
    """
    recipe, pruning = sweep.problem.recipe, sweep.problem.pruning
    if recipe.patience is not None:
        training_images -= round(recipe.validation * training_images)
    batch = max(1, min(recipe.batch_size, training_images))
    epochs = {"WR": recipe.epochs - pruning.rewind_epoch, "LRR": recipe.epochs, "FT": pruning.finetune_epochs}
    return whose(sweep.name, network) | {
        "epochs": recipe.epochs if network.is_complete else epochs[pruning.rewind],
        "images": training_images // batch * batch,
        "iterations": last,
    }


def ends(problem: str, pack: Sequence[Chain] | int) -> list[Event]:
    """Return an event for the end of each chain of a trial, or for that of a complete network of this number."""
    if isinstance(pack, int):
        return [whose(problem, NetworkId(complete=pack))]
    return [whose(problem, chain.of_run.network(max(chain.iterations, default=1))) for chain in pack]
