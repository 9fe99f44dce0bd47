"""What a sweep is going to do, said before it starts."""

from collections.abc import Sequence

from distsim.activations.probe import layer_shapes
from distsim.environment import threads
from distsim.models import build
from distsim.specs import PERMUTATIONS
from distsim.sweep.cost import Cost, duration, images_to_train, layer_cost, product_rate, readable, training_rate
from distsim.sweep.engine import Engine
from distsim.sweep.jobs import Comparison
from distsim.sweep.order import Prepared
from distsim.sweep.plan import Missing

WORTH_MEASURING = 200_000  # images to train, from which on a sweep says how long that takes


def comparison_forecast(busy: list[Prepared], jobs: Sequence[Comparison], engine: Engine) -> str:
    """Bytes, FLOPs and about how long."""
    shapes: dict[tuple[str, str], tuple[int, ...]] = {}
    for one in busy:
        problem = one.sweep.problem
        of_layer = layer_shapes(build(problem), problem)
        shapes |= {(one.name, name): (problem.probe, *shape) for name, shape in of_layer.items()}
    total = Cost()
    for job in jobs:
        metrics = {name for _, wanted in job.networks for name in wanted}
        times = PERMUTATIONS if job.chance else 1
        read = 1 + times * len(job.networks)
        total += layer_cost(shapes[job.problem, job.layer], 2, read, read - 1, metrics)
    with threads(busy[0].sweep.identity.threads):
        return total.sentence(product_rate(), engine.slots(busy))


def training_forecast(busy: list[Prepared], one: Prepared, lack: Missing, engine: Engine) -> str:
    """Images, and about how long, if that is worth measuring and can be measured here."""
    identity, problem = one.sweep.identity, one.sweep.problem
    pruned = sum(map(len, lack.chains.values()))
    images = images_to_train(problem, len(one.dataset.train_labels), lack.complete, pruned)
    most = "at most " if problem.recipe.patience is not None else ""
    text = f"{one.name}: training on {most}{images:,} images"
    if not engine.here or images < WORTH_MEASURING:
        return text
    at_once = max(1, min(engine.trials(busy, one), -(-len(lack.chains) // one.sweep.pack)))
    with threads(identity.threads):
        rate = training_rate(
            problem, len(one.dataset.classes), one.sweep.device, identity.precision, pack=one.sweep.pack
        )
    return f"{text}, about {duration(images / (rate * at_once))} with {at_once} trial{'s' * (at_once > 1)} at once"


def work_sentence(one: Prepared, lacking: Missing) -> str:
    parts = []
    if lacking.networks:
        parts.append(
            f"{lacking.networks} of {one.sweep.extent.runs * one.sweep.extent.iterations + 1} networks to train"
        )
    if lacking.activations:
        size = readable(one.per_network * len(lacking.activations))
        parts.append(f"activations of {len(lacking.activations)} to write (up to {size})")
    if lacking.values:
        parts.append(f"{lacking.values} similarities to compute")
    return f"{one.name}: {', '.join(parts)}"
