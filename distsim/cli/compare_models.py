"""`distsim compare-models`: models of scripts, or files of activations, layer by layer."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distsim.cli.arguments import resolved_device, se_flag, whole
from distsim.cli.output import print_line
from distsim.cli.studies import import_named
from distsim.named_files import place, write_all
from distsim.words import counted

DESCRIPTION = (
    "Compare two or more models on the same inputs, every layer of one with every layer of another. Print what is most "
    "similar to what, and write a table (CSV) and a heat map (PNG)."
)
WIDEST = 100  # characters of a matrix that is printed whole


def flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="script.py:NAME or package.module:NAME, where NAME is a module or a function without arguments that "
        "returns one; or a file of activations: .npy (one layer), .npz or .safetensors (an array for each layer). "
        "LABEL=MODEL gives it a name for table and figure",
    )
    parser.add_argument(
        "--data",
        metavar="WHERE",
        help="folder:PATH, whose images are found wherever they lie in it (of train and test, only test); a .npy, "
        ".npz or .safetensors file of inputs (several arrays are given to the model by their names); digits; the test "
        "images of cifar10, mnist or svhn, if a sweep has downloaded them; or script.py:NAME, a tensor, array, dict or "
        "DataLoader, or a function that returns one",
    )
    parser.add_argument(
        "--examples", type=whole, default=1000, metavar="N", help="use so many inputs, evenly spread (default: 1000)"
    )
    parser.add_argument("--size", type=whole, default=224, help="height and width of folder's images (default: 224)")
    parser.add_argument("--grey", action="store_true", help="read folder's images in grey, with one channel")
    parser.add_argument(
        "--normalise",
        choices=("none", "imagenet", "data"),
        default="none",
        help="how to normalise images: none leaves values from 0 to 1; imagenet subtracts ImageNet's mean and divides "
        "by its standard deviation; data does so with those of the images themselves (default: none)",
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="LAYER",
        help="compare these layers: names, patterns such as 'layer*.relu', or types of modules such as Conv2d "
        "(default: convolutions and linear layers)",
    )
    parser.add_argument(
        "--metrics", "--metric", nargs="+", metavar="NAME", default=["cka"], help="metrics to compute (default: cka)"
    )
    parser.add_argument("--batch", metavar="KEY", help="take this entry of a dict, or this place in a tuple, as input")
    parser.add_argument(
        "--batch-size", type=whole, default=64, metavar="N", help="run models on so many inputs at once (default: 64)"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="run models and compare on this (default: auto)",
    )
    parser.add_argument("--out", metavar="FOLDER", default=".", help="folder for table and figure (default: this one)")
    parser.add_argument(
        "--import", dest="imported", metavar="FILE", help="import this script, which registers your metrics"
    )
    se_flag(parser)


def do_compare_models(flags: argparse.Namespace) -> int:
    """Compare the models, print what is most similar, and write the table and the heat map."""
    from distsim.cli.named_models import inputs, model, names_of, selectors
    from distsim.environment import require_device

    for name in ("examples", "size", "batch_size"):
        if not 1 <= getattr(flags, name) < 2**31:
            raise ValueError(f"--{name.replace('_', '-')} takes whole numbers from 1 on, got {getattr(flags, name)}")
    names, places = names_of(flags.models)
    folder = place(flags.out, "--out")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {flags.out} is a file; it names the folder for the table and the figure")
    import_named(flags)
    device = resolved_device(flags.device, None)
    require_device(device)
    models = {name: model(place, device) for name, place in zip(names, places, strict=True)}
    networks = [name for name, one in models.items() if not isinstance(one, dict)]
    if networks and flags.data is None:
        raise ValueError(f"{networks[0]} is a network and needs inputs: say where they are with --data")
    if not networks and flags.data is not None:
        raise ValueError("all models are activations already, so leave --data out")
    data = inputs(flags) if flags.data is not None else None
    layers = selectors(flags.layers, models) if flags.layers else None
    found = _compared(models, data, layers, device, flags)
    for pair in found.pairs.values():
        for metric in found.metrics:
            print_line(_as_text(pair, metric) + "\n")
    for said in (_inputs_in_words(data, flags), found.doubts, getattr(found, "said_of_the_best", "")):
        if said:
            print_line(said)
    print_line(_write(found, folder, names))
    return 0


def _inputs_in_words(data: Any, flags: argparse.Namespace) -> str:
    """Return on what the models were compared, or "" if its size is not known before it is read."""
    one = next(iter(data.values()), None) if isinstance(data, dict) else data
    shape = tuple(getattr(one, "shape", ()))
    if not shape:
        return ""
    each = f", each {' x '.join(map(str, shape[1:]))}" if len(shape) > 1 else ""
    return f"compared on {counted(shape[0], 'input')}{each}, from {flags.data} (at most --examples {flags.examples})"


def _compared(models: Any, data: Any, layers: Any, device: str, flags: argparse.Namespace) -> Any:
    """Compare. ValueError: the arguments do not fit, or a model's own code fails."""
    import warnings

    from distsim.comparison.models import compare
    from distsim.metrics import UnreliableSimilarity

    key = int(flags.batch) if flags.batch and re.fullmatch(r"-?\d{1,9}", flags.batch) else flags.batch
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableSimilarity)  # it is said below the tables
            return compare(
                models,
                data,
                layers=layers,
                metrics=flags.metrics,
                batch=key,
                batch_size=flags.batch_size,
                device=device,
                measure=flags.measure,
            )
    except Exception as error:
        if notes := getattr(error, "__notes__", ()):  # what a model's own code raises may be anything
            raise ValueError(f"{notes[0]}: {type(error).__name__}: {error}") from error
        if isinstance(error, TypeError):
            raise ValueError(str(error)) from error
        raise


def _as_text(pair: Any, metric: str) -> str:
    """Return the matrix of a metric, or if it is too wide what is most similar to each layer."""
    matrix = pair.matrix(metric)
    title = f"{metric}: layers of {pair.model_x} (rows) and of {pair.model_y}"
    whole = matrix.round(3).to_string(index_names=False, header=True, na_rep="-")
    if max(map(len, whole.splitlines())) <= WIDEST:
        return f"{title}\n{whole}"
    return f"{metric}: for each layer of {pair.model_x} the most similar one of {pair.model_y}\n{_best(matrix, metric)}"


def _best(matrix: Any, metric: str) -> str:
    from distsim.metrics.registry import DISTANCES

    rows = []
    for name, values in matrix.iterrows():
        values = values.dropna()
        if len(values):
            best = values.idxmin() if metric in DISTANCES else values.idxmax()
            rows.append((str(name), f"{values[best]:.3f}", str(best)))
        else:
            rows.append((str(name), "-", "undefined"))
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"{name:<{width}}  {value:>6}  {best}" for name, value, best in rows)


def _write(found: Any, folder: Path, names: Sequence[str]) -> str:
    """Write the table and the figure into the folder. Return a sentence with their path."""
    from distsim.plotting import render
    from distsim.results.table_files import to_csv_bytes

    path = folder / "_".join(["compare", *(re.sub(r"[^\w.-]+", "-", name)[:40] for name in names[:4])])
    files = {f"{path.name}.csv": to_csv_bytes(found.table), f"{path.name}.png": render(found.figure(), "png")}
    replaced = any((folder / name).exists() for name in files)
    write_all(folder, files, "--out")
    return f"{path}.csv and .png" + (", in place of those of an earlier comparison" if replaced else "")
