"""Titles, recipes and machines in words."""

from collections.abc import Iterable
from typing import Any

from distsim.specs import MAGNITUDE, Identity, Problem
from distsim.words import counted

SOURCES = {
    "cifar10": "CIFAR-10",
    "svhn": "SVHN",
    "mnist": "MNIST",
    "digits": "scikit-learn's digits",
    "folder": "your own images",
    "arrays": "your own data",
}
MODELS = {
    "vgg16_bn": "VGG16",
    "vgg_svhn": "VGG",
    "resnet_fast": "ResNet",
    "lenet5": "LeNet-5",
    "vgg_digits": "a small VGG",
    **dict.fromkeys(("vgg_cifar2", "vgg_cifar4", "vgg_cifar6", "vgg_cifar8"), "a small VGG"),
}
OPTIMIZERS = {"adam": "Adam", "sgd": "SGD with momentum", "fast_sgd": "SGD with Nesterov momentum"}
SCOPES = {
    "global": "all prunable weights in one pool",
    "local": "each layer for itself",
    "mixed": "convolutions in one pool, linear layers in another",
}
NAMED = 4  # classes in a title


def title(problem: Problem) -> str:
    """Return the title of a problem: "CIFAR-10 (automobile, truck), a small VGG"."""
    source = SOURCES.get(problem.source, problem.source)
    few = 0 < len(problem.classes) <= NAMED
    classes = f" ({', '.join(problem.classes)})" if few else ""
    return f"{source}{classes}, {MODELS.get(problem.model, problem.model)}"


def question(identity: Identity, metrics: Iterable[str], runs: int, iterations: int, complete: int) -> str:
    """Return what a study asked, in a paragraph."""
    problem = identity.problem
    several = f"{complete} complete networks" if complete > 1 else "one complete network"
    starts = "starts" if runs == 1 else "start"
    named = listed(metrics)
    criterion = problem.pruning.criterion
    rule = "the magnitude of its weights" if criterion == MAGNITUDE else f"the criterion {criterion}"
    return (
        f"How far does pruning carry a network away from what it was? {runs_text(runs)} {starts} from {several}, "
        f"trained on {SOURCES.get(problem.source, problem.source)}. Each run prunes the network {times(iterations)} by "
        f"{rule} and trains it again after each pruning. After each, the outputs of every "
        f"compared layer on {problem.probe:,} training images are compared with the complete network’s, by {named}."
    )


def runs_text(runs: int) -> str:
    return "One run" if runs == 1 else f"{runs} runs"


def times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def listed(names: Iterable[str], last: str = "and") -> str:
    """Join names as a sentence does: "a, b and c"."""
    every = list(names)
    return f" {last} ".join(part for part in (", ".join(every[:-1]), every[-1]) if part) if every else "nothing"


def shortened(names: Iterable[str], most: int = 4) -> str:
    """Join the first few names, and say how many more there are."""
    every = list(names)
    return listed(every) if len(every) <= most else f"{', '.join(every[:most])} and {len(every) - most} more"


def share(part: float) -> str:
    """Return a share in per cent, with two digits that count: 0.01234 is "1.2 %"."""
    per_cent = 100 * part
    return f"{per_cent:.0f} %" if per_cent >= 10 else f"{per_cent:.1f} %" if per_cent >= 0.1 else f"{per_cent:.2g} %"


def decided_by(identity: Identity) -> list[tuple[str, str]]:
    """Return what determines every number of a study: names and values for a reader."""
    problem = identity.problem
    colours = "colour" if problem.channels == 3 else "grey"
    classes = ", ".join(problem.classes) if problem.classes else "all"
    limit = f", the first {problem.train_limit:,} training images by class" if problem.train_limit else ""
    return [
        ("Problem", problem.name + (" (made smaller than the papers’)" if problem.reduced else "")),
        ("Images", f"{SOURCES.get(problem.source, problem.source)}, {problem.size} × {problem.size}, {colours}{limit}"),
        ("Classes", classes),
        ("Network", f"{problem.model}"),
        ("Training", _training(problem)),
        ("Pruning", _pruning(problem)),
        ("After each pruning", _rewinding(problem)),
        ("Compared on", f"{problem.probe:,} training images"),
        ("Seed", str(identity.seed)),
        ("Arithmetic", _arithmetic(identity)),
        ("Digest of the images", identity.data_digest),
        ("Identity of the sweep", identity.hash),
    ]


def _training(problem: Problem) -> str:
    recipe = problem.recipe
    schedule = {
        "constant": "constant",
        "step": f"times {recipe.factor:g} after epochs {listed(map(str, recipe.milestones))}",
        "triangle": f"up until epoch {recipe.peak:g}, then down",
    }[recipe.schedule]
    augmented = f"; augmented by {listed(recipe.augment)}" if recipe.augment else ""
    patience = f"; stopped after {counted(recipe.patience, 'epoch')} without improvement" if recipe.patience else ""
    return (
        f"{counted(recipe.epochs, 'epoch')} of {OPTIMIZERS[recipe.optimizer]}, batches of {recipe.batch_size}, "
        f"learning rate {recipe.lr:g} ({schedule}), weight decay {recipe.weight_decay:g}{augmented}{patience}"
    )


def _pruning(problem: Problem) -> str:
    pruning = problem.pruning
    conv, fc = share(pruning.conv_rate), share(pruning.fc_rate)
    rates = conv if conv == fc else f"{conv} of convolutions and {fc} of linear layers"
    kept = "" if pruning.prune_output else "; the output layer is kept"
    own = pruning.criterion != MAGNITUDE
    lowest = f"{rates} of what is left, those lowest by the criterion {pruning.criterion}" if own else ""
    return f"{lowest or f'the smallest {rates} of what is left'}, {SCOPES[pruning.scope]}{kept}"


def _rewinding(problem: Problem) -> str:
    pruning = problem.pruning
    finetuning = counted(pruning.finetune_epochs, "epoch")
    return {
        "WR": f"weights return to their values after epoch {pruning.rewind_epoch}, and are trained from there",
        "LRR": "weights are kept, and the whole schedule is trained again",
        "FT": f"weights are kept, and trained for {finetuning} at the last learning rate",
    }[pruning.rewind]


def _arithmetic(identity: Identity) -> str:
    parts = [identity.precision, f"{identity.threads} thread{'s' * (identity.threads > 1)}"]
    parts += ["a GPU repeats its bits"] if identity.deterministic else []
    parts += ["compiled"] if identity.compile else []
    parts += [f"{identity.fuse} runs in a step"] if identity.fuse > 1 else []
    return ", ".join(parts)


def machine(environment: dict[str, Any]) -> str:
    """Return a machine in words, without its name."""
    device = str(environment["device"])
    processor = f"{environment['machine']} with {environment['instruction_set']}"
    return f"CPU, {processor}" if device == "cpu" else f"{device} (host: {processor})"
