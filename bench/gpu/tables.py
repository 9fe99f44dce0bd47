"""The tables of docs/benchmarks.md about GPUs: which cells there are, and what each shows."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from cells import Cells, Found, Newest, Row, Session
from report import Section, Table

RUN = "PARTS={} bash bench/gpu/run.sh"
LONGER = "PARTS=rates RATES=400 bash bench/gpu/run.sh"  # to the end of its list
STUDY = "bash bench/gpu/study.sh"
PROBLEMS = (
    ("cifar2", 128), ("cifar4", 128), ("cifar6", 128), ("cifar8", 128), ("cifar10", 128), ("vgg16_cifar10", 128),
    ("resnet_fast_cifar10", 512), ("vgg_svhn", 50), ("lenet5_mnist", 128),
)  # fmt: skip
PRECISIONS = {"float32": "float32", "tf32": "TF32", "bfloat16": "bfloat16"}
FUSED = {"cifar2": 20, "cifar10": 5, "vgg16_cifar10": 5}  # chains of each problem that are fused
PROFILED = ("cifar2", "vgg16_cifar10", "resnet_fast_cifar10")
NAMED = 5  # kernels in the table
LISTED = 20  # tests that failed
PIECES = (
    "Gram matrix, float32", "Gram matrix, float64", "Cholesky factor", "product of the two factors", "eigenvalues",
    "QDWH with its bounds",
)  # fmt: skip
OF_CIFAR2 = {"conv1_1": 16384, "conv1_2": 16384, "pool1": 4096, "fc1": 256}  # layers, and their features
ALL = "all layers"
ROUTES = ("card", "qdwh", "eigenvalues", "fast")
SAME = (
    "killed and resumed", "packed", "fused, killed and resumed", "compiled, killed and resumed",
    "tf32, killed and resumed",
)  # fmt: skip
KNOWN_RATES = (
    "products, float64", "products, float32", "products, tf32", "products, bfloat16",
    "copies within it, read and written", "copies from pinned memory", "copies from memory",
)  # fmt: skip


def sections(sessions: Sequence[Session], fresh: bool = False) -> list[Section]:
    """Return the sections of the document about each card.

    fresh : of one session that has just been measured. What it has no number for is left out
    """
    found: list[Section] = []
    for card in dict.fromkeys(session.machine["card"] for session in sessions):
        own = [session for session in sessions if session.machine["card"] == card]
        newest = Newest(own, fresh)
        for name, (title, of_card) in SECTIONS.items():
            tables = [where(own)] if of_card is None else list(of_card(newest))
            tables = [table for table in tables if table.rows]
            if not tables:
                continue
            found.append(Section(f"gpu {card}, {name}", f"{card}: {title}", "", tables))
    return found


def where(sessions: Sequence[Session]) -> Table:
    table = Table(("session", "date", "commit", "Python, cores, driver", "versions", "remarks"))
    for letter, session in zip("abcdefghijklmnopqrstuvwxyz", sessions, strict=False):
        machine = session.machine
        table.add(
            letter,
            machine["date"],
            machine["commit"] or machine.get("code", ""),
            f"{machine['python']}, {machine['cores']} cores, driver {machine['driver'] or '?'}",
            ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
            machine.get("remarks", ""),
        )
    return table


# --- targets ---------------------------------------------------------------------------------------------------------


def targets(newest: Newest) -> Iterator[Table]:
    table = Cells(newest, ("what", "target", "measured"), f"bash bench/gpu/run.sh` or `{STUDY}")
    rate: dict[str, Any] = {"precision": "bfloat16", "deterministic": False}
    for problem, wanted in (("vgg16_cifar10", 67_000), ("resnet_fast_cifar10", 110_000)):
        best = _best(newest, ("alone",), problem=problem, chains=1, **rate)
        table.add(f"{problem}, images/s", f"≥ {wanted:,}", table.cell(best, partial(_met, wanted=wanted)))
    best = _best(newest, ("fused", "tails"), problem="cifar2", chains=20, **rate)
    table.add("20 fused cifar2 chains, images/s", "≥ 1,500,000", table.cell(best, partial(_met, wanted=1_500_000)))
    qdwh = newest.find("comparisons", "seconds", piece="QDWH with its bounds", n=5000)
    table.add("NBS of two Cholesky factors, n = 5,000", "≤ 0.10 s", table.cell(_real(qdwh), _met_seconds))
    study = newest.find("study", "seconds", problem="cifar2", runs=20, status=0)
    table.add(
        "the whole study of cifar2: 20 runs × 20 iterations, chance included",
        "≤ 300 s",
        table.cell(study, lambda row: f"{row['seconds']:,.0f} s: {_verdict(row['seconds'] <= 300)}"),
    )
    yield table.table()


def _best(newest: Newest, ways: Sequence[str], **wanted: Any) -> Found | None:
    """Return the fastest of these ways, compiled or not."""
    found = [
        newest.find("rates", "images_per_second", way=way, compiled=compiled, **wanted)
        for way in ways
        for compiled in (False, True)
    ]
    real = [one for one in map(_real, found) if one is not None]
    return max(real, key=lambda one: one.row["images_per_second"], default=None)


def _real(found: Found | None) -> Found | None:
    """Return what distsim did itself, and None for what only a prototype did: that meets no target."""
    return None if found is None or found.row.get("prototype") else found


def _met(row: Row, wanted: float) -> str:
    return f"{row['images_per_second']:,}: {_verdict(row['images_per_second'] >= wanted)}"


def _met_seconds(row: Row) -> str:
    return f"{row['seconds']:.3f} s: {_verdict(round(row['seconds'], 2) <= 0.10)}"


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


# --- training --------------------------------------------------------------------------------------------------------


def rates(newest: Newest) -> Iterator[Table]:
    header = ["problem", "batch"]
    for precision in PRECISIONS.values():
        header += [precision, f"{precision}, compiled"]
    table = Cells(newest, (*header, "plain PyTorch step, bfloat16"), LONGER)
    for problem, batch in PROBLEMS:
        way: dict[str, Any] = {"problem": problem, "deterministic": False, "chains": 1}
        cells = [
            newest.find("rates", "images_per_second", precision=precision, way="alone", compiled=compiled, **way)
            for precision in PRECISIONS
            for compiled in (False, True)
        ]
        eager = newest.find("rates", "images_per_second", precision="bfloat16", way="eager", **way)
        last = table.cell(eager, _images) if eager or problem in PROFILED else ""
        table.add(problem, str(batch), *(table.cell(found, _images) for found in cells), last)
    yield table.table("Images a second of one network.")


def chains(newest: Newest) -> Iterator[Table]:
    header = ("problem", "chains", "way", *PRECISIONS.values(), "bfloat16, deterministic")
    table = Cells(newest, header, LONGER)
    ways = [("cifar2", 1, "alone", False), ("cifar2", 5, "packed", False), ("cifar2", 20, "packed", False)]
    for problem, count in FUSED.items():
        ways += [(problem, count, "fused", compiled) for compiled in (False, True)]
        ways += [(problem, count, "tails", False)] if problem == "cifar2" else []
    for problem, count, way, compiled in ways:
        wanted = {"problem": problem, "chains": count, "way": way, "compiled": compiled}
        cells = [
            newest.find("rates", "images_per_second", precision=precision, deterministic=deterministic, **wanted)
            for precision, deterministic in (*((name, False) for name in PRECISIONS), ("bfloat16", True))
        ]
        shown = ("cifar2", way == "fused" and compiled)  # a cell that nobody will fill is empty
        texts = [
            table.cell(found, _images) if found or _planned(precision, *shown, problem, way) else ""
            for precision, found in zip((*PRECISIONS, "deterministic"), cells, strict=True)
        ]
        if any(texts):
            table.add(problem, str(count), _named(way, compiled), *texts)
    yield table.table("Images a second of all chains together.")


def _planned(precision: str, main: str, fused_compiled: bool, problem: str, way: str) -> bool:
    """Return whether run.sh measures this cell of the chains' table."""
    if precision == "bfloat16":
        return problem == main or fused_compiled
    if problem != main or way == "packed":
        return precision == "deterministic" and problem == main
    if way == "fused":
        return precision == ("tf32" if fused_compiled else "float32")
    return way == "alone" or precision == "float32"


def _named(way: str, compiled: bool) -> str:
    named = "fused with own kernels" if way == "tails" else way
    return f"{named}, compiled" if compiled else named


def kernels(newest: Newest) -> Iterator[Table]:
    table = Cells(newest, ("problem", "way", "kernels", "µs", "longest: µs of a step"), RUN.format("rates"))
    ways = [(problem, "alone", compiled, 1) for problem in PROFILED for compiled in (False, True)]
    for problem, way, compiled, count in [*ways, ("cifar2", "fused", True, 20), ("cifar2", "tails", False, 20)]:
        wanted = {"problem": problem, "way": way, "compiled": compiled, "chains": count, "deterministic": False}
        found = newest.find("rates", "longest", precision="bfloat16", **wanted)
        name = f"{count} {_named(way, compiled)}" if count > 1 else _named(way, compiled)
        cells = [
            table.cell(found, lambda row, key=key: f"{row[key]:,}") if found else "" for key in ("kernels", "kernel_us")
        ]
        table.add(problem, name, *cells, table.cell(found, _longest))
    yield table.table("A step in bfloat16.")


def _images(row: Row) -> str:
    return f"{row['images_per_second']:,}"


def _longest(row: Row) -> str:
    return "; ".join(f"{name[:48]} {us:,.0f}" for us, _, name in row["longest"][:NAMED])


# --- comparisons -----------------------------------------------------------------------------------------------------


def device_rates(newest: Newest) -> Iterator[Table]:
    table = Cells(newest, ("what", "rate"), RUN.format("comparisons"))
    for name in KNOWN_RATES:
        having = "flops" if name.startswith("products") else "bytes_per_second"
        found = newest.find("comparisons", having, rate=name)
        table.add(name.replace("tf32", "TF32"), table.cell(found, _rate))
    yield table.table()


def _rate(row: Row) -> str:
    if "flops" in row:
        return f"{row['flops'] / 1e12:,.3g} TFLOP/s"
    rate = row["bytes_per_second"]
    return f"{rate / 1e12:,.3g} TB/s" if rate >= 1e12 else f"{rate / 1e9:,.3g} GB/s"


def pieces(newest: Newest) -> Iterator[Table]:
    header = ("piece", "seconds", "to the eigenvalues' value", "bounds apart")
    table = Cells(newest, header, RUN.format("comparisons"))
    found = {one.row["piece"]: one for one in newest.every("comparisons", "seconds", "piece")}
    for name in dict.fromkeys((*PIECES, *found)):
        one = found.get(name)
        table.add(
            name,
            table.cell(one, lambda row: f"{row['seconds']:.3g}"),
            *(_small(table, one, key) for key in ("to_eigenvalues", "apart")),
        )
    size = next((f"n = {one.row['n']:,}, {one.row['columns']:,} features" for one in found.values()), "n = 5,000")
    yield table.table(f"cifar2's conv1_2, {size}, float64 unless it says otherwise.")


def layers(newest: Newest) -> Iterator[Table]:
    header = ("problem", "layer", "features", *(f"`{route}`" for route in ROUTES), "NBS", "CKA", "bounds apart")
    table = Cells(newest, header, RUN.format("comparisons"))
    seen = [("cifar2", layer, columns) for layer, columns in OF_CIFAR2.items()]
    seen += [
        (r["problem"], r["layer"], r["columns"])
        for r in newest.latest("comparisons")[1]
        if "layer" in r and "route" in r
    ]
    every = list(dict.fromkeys(seen))
    every += [one for one in (("cifar2", ALL, 0), ("vgg16_cifar10", ALL, 0)) if one not in every]
    every.sort(key=lambda one: one[0])
    for problem, layer, columns in every:
        found = [newest.find("comparisons", "seconds", problem=problem, layer=layer, route=route) for route in ROUTES]
        known = next((one for one in found if one is not None and "nbs" in one.row), None)
        table.add(
            problem,
            layer,
            f"{columns:,}" if columns else "",
            *(
                table.cell(one, _seconds) if one or route == "card" or (route == "qdwh" and layer != ALL) else ""
                for one, route in zip(found, ROUTES, strict=True)
            ),
            *(table.cell(known, lambda row, key=key: f"{row[key]:.6f}") if known else "" for key in ("nbs", "cka")),
            _small(table, known, "bounds"),
        )
    together = newest.find("comparisons", "largest_difference")
    notes = []
    if together:
        differ, n = f"{together.row['largest_difference']:.1e}", f"{together.row['n']:,}"
        notes.append(f"GPU and CPU differ by at most {differ} in all metrics of trained cifar2 layers, n = {n}.")
    n = next((row["n"] for row in newest.latest("comparisons")[1] if "route" in row), 5000)
    yield table.table(
        f"A comparison in five metrics, n = {n:,}, from arrays on the host; `card`: from arrays on the card, as "
        "`--activations memory` has them. VGG16 was trained on cifar2's two classes.",
        *notes,
    )


def _seconds(row: Row) -> str:
    return f"{row['seconds']:.3g} s"


def _small(table: Cells, found: Found | None, key: str) -> tuple[str, str] | str:
    """Return the cell of a small number, or an empty one: not every row has such a number."""
    if found is None:
        return ""
    row = found.row
    if key == "bounds" and row.get("lower") and row.get("upper"):
        row = row | {"bounds": (row["upper"] - row["lower"]) / row["lower"]}
    return table.cell(Found(row, found.letter), lambda row: f"{row[key]:.1e}") if row.get(key) is not None else ""


# --- tests and bits --------------------------------------------------------------------------------------------------


def same_bits(newest: Newest) -> Iterator[Table]:
    table = Cells(newest, ("deterministic sweep", "same digest as", "same"), RUN.format("determinism"))
    found = {one.row["way"]: one for one in newest.every("determinism", "same", "way")}
    for way in dict.fromkeys((*SAME, *found)):
        other = way.rpartition(", ")[0] if way in SAME else ""
        table.add(way, other or "alone", table.cell(found.get(way), lambda row: "yes" if row["same"] else "**no**"))
    yield table.table("cifar2 at full width, a few epochs.")
    letter, rows = newest.latest("tests")
    tests = Cells(newest, ("tests marked `gpu`", "passed", "failed", "skipped", "seconds"), RUN.format("tests"))
    totals = next((Found(row, letter) for row in rows if "passed" in row), None)
    ran = totals.row["ran"] if totals else "all"
    keys = ("passed", "failed", "skipped", "seconds")
    tests.add(ran, *(tests.cell(totals, lambda row, key=key: f"{row[key]:,.0f}") for key in keys))
    failed = [f"`{row['failed']}`" for row in rows if isinstance(row.get("failed"), str)]
    more = f", and {len(failed) - LISTED} more" if len(failed) > LISTED else ""
    yield tests.table(*([f"Failed: {', '.join(failed[:LISTED])}{more}."] if failed else []))


# --- a study ---------------------------------------------------------------------------------------------------------


def study(newest: Newest) -> Iterator[Table]:
    header = ("study", "runs × iterations", "flags", "a network: training", "comparison", "everything")
    table = Cells(newest, header, STUDY)
    done = newest.find("study", "networks", problem="cifar2", runs=20)
    shown = [newest.find("study", "networks", problem="cifar2"), done]
    for found in [one for i, one in enumerate(shown) if i == 1 or one != done]:
        if found is None:
            table.add("cifar2", "20 × 20", "", table.cell(None, str), "", "")
            continue
        row, letter = found.row, found.letter
        table.add(
            row["problem"],
            f"{row['runs']} × {row['iterations']}",
            f"`{row['flags']}`" if row["flags"] else "",
            (f"{row['training_seconds'] / row['networks']:.2f} s", letter),
            (f"{row['comparison_seconds'] / row['networks']:.2f} s", letter),
            (f"{row['seconds']:,} s" if row.get("seconds") else "")
            + ("" if row["status"] == 0 else ", not to its end"),
        )
    yield table.table("P1's recipe, chance included. The means of a network are of processes' time.")


Of = Callable[[Newest], Iterator[Table]]
SECTIONS: dict[str, tuple[str, Of | None]] = {
    "machines": ("sessions", None),
    "targets": ("targets", targets),
    "device": ("what the card can do", device_rates),
    "training": ("training", rates),
    "chains": ("chains together", chains),
    "kernels": ("kernels", kernels),
    "pieces": ("pieces of a comparison", pieces),
    "layers": ("comparisons of layers", layers),
    "bits": ("the same bits, and tests", same_bits),
    "study": ("a whole study", study),
}
