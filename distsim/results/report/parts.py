"""The parts of the page that need no script: findings, claims, missing values, how the study was run.

Every text that comes from a study goes through `text`, so that names of layers and classes are text.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape as text
from typing import Any

import pandas as pd

from distsim.results.claims.study import NO_DATA, Verdict
from distsim.results.claims.words import SAYS
from distsim.results.looks import label
from distsim.results.published import Published
from distsim.results.report.arrays import first_metric
from distsim.results.report.sentences import FOR, Findings
from distsim.results.report.words import decided_by, machine, question, share, title
from distsim.words import duration

SIGNS = {True: "✓", False: "✗"}
FIGURES = (
    ("Similarity by layer, four metrics", "fig5", ""),
    ("Similarity by layer, one metric", "fig2", "metric"),
    ("Accuracy, mean of runs", "fig4", ""),
    ("Accuracy, median of runs", "fig1", ""),
    ("Output layer", "fig8", ""),
)


def extent(study: Published) -> tuple[int, int]:
    """Return the number of runs, of all complete networks together, and the last iteration."""
    networks = study.tables.pruned.networks
    return len(runs_there(networks)), int(networks["iteration"].max()) if len(networks) else 0


def asked(study: Published) -> str:
    """Return what a study asked, in a paragraph."""
    metrics = [label(name, study.labels) for name in dict.fromkeys(study.tables.summary["metric"])]
    return question(study.identity, metrics, *extent(study), len(study.parts))


def front(study: Published, found: Findings) -> str:
    """Return what was asked and what came out."""
    sentences = "".join(f"<li>{text(sentence)}</li>" for sentence in found.sentences)
    paragraph = text(asked(study))
    return (
        f'<h1>{text(title(study.identity.problem))}</h1><div class="front"><div><p class="question">{paragraph}</p>'
        f'<h2 class="small">What came out</h2><ol class="findings">{sentences}</ol>'
        f'<p class="note">{text(found.note)}</p></div>{_facts(study, *extent(study))}</div>'
    )


def _facts(study: Published, runs: int, last: int) -> str:
    """Return the size of the study, beside the sentences."""
    summary, accuracy = study.tables.pruned.summary, study.tables.pruned.accuracy
    controls = sum(part.get("controls", 0) for part in study.parts)
    left = accuracy["remaining"].min() if len(accuracy) else float("nan")
    hours = sum(part["training_hours"] + part["comparison_hours"] for part in study.parts)
    facts = [
        ("Problem", study.problem),
        ("Complete networks", str(len(study.parts))),
        ("Runs", str(runs)),
        ("Prunings of each", str(last)),
        *([("Networks of controls", str(controls))] if controls else []),
        ("Parameters left", share(left)),
        ("Layers compared", str(summary["layer"].nunique())),
        ("Similarities", f"{len(study.tables.similarities):,}"),
        ("Computing time", duration(3600 * hours)),
    ]
    return '<dl class="facts">' + "".join(f"<dt>{text(a)}</dt><dd>{text(b)}</dd>" for a, b in facts) + "</dl>"


def runs_there(networks: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Return the runs of a table of networks, without controls."""
    pruned = networks[(networks["iteration"] > 0) & (networks["control"] == "")]
    named = pruned[["complete", "run"]].drop_duplicates()
    return list(named.itertuples(index=False, name=None))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """Return a table. head and caption are text, cells are HTML; the first cell of a row is its head."""
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


# --- claims ----------------------------------------------------------------------------------------------------------


def claims(study: Published, verdicts: Sequence[Verdict]) -> str:
    """Return the claims that the study can test, with the numbers behind each, and what the others lack."""
    mine = [v for v in verdicts if v.problem in (study.problem, "all") and v.verdict != NO_DATA]
    lacking = [v for v in verdicts if v.verdict == NO_DATA]
    rows = [
        (
            f'<span class="claim">{text(v.claim)}</span>',
            f"{text(SAYS[v.claim])} <small>{text(v.where)}</small>",
            text("accuracy" if v.metric == "accuracy" else label(v.metric, study.labels)),
            _verdict(v),
            f"{text(v.text)}{_numbers(v.numbers)}",
        )
        for v in mine
    ]
    head = ("Claim", "Says", "By", "Verdict", "Conditions and numbers")
    judged = table(head, rows, "Claims that this study can test") if rows else "<p>No claim can be tested here.</p>"
    return judged + _lacking(lacking, study)


def _verdict(verdict: Verdict) -> str:
    good = verdict.verdict in FOR
    images = f"<small>{text(verdict.data)}</small>" if verdict.data else ""
    images += f"<small>beyond controls: {text(verdict.controlled)}</small>" if verdict.controlled else ""
    kind = "good" if good else "bad"
    sign = f'<span aria-hidden="true">{SIGNS[good]}</span>'
    return f'<span class="verdict {kind}">{sign} {text(verdict.verdict)}</span> {images}'


def _numbers(numbers: Mapping[str, float]) -> str:
    pairs = "".join(
        f"<span>{text(name.replace('_', ' '))} <b>{value:.4g}</b></span>" for name, value in numbers.items()
    )
    return f'<p class="numbers">{pairs}</p>' if pairs else ""


def _lacking(verdicts: Sequence[Verdict], study: Published) -> str:
    """Return the list of what is lacking for claims that cannot be judged, folded."""
    if not verdicts:
        return ""
    rows = [
        (
            text(v.claim),
            text(SAYS[v.claim]),
            text("all problems" if v.problem == "all" else v.problem),
            text("accuracy" if v.metric == "accuracy" else label(v.metric, study.labels)),
            text(v.text),
        )
        for v in verdicts
    ]
    listing = table(("Claim", "Says", "Problem", "By", "What is lacking"), rows, "Claims that lack data")
    cases = "1 other case" if len(rows) == 1 else f"{len(rows)} other cases"
    return f"<details><summary>What is lacking for {cases}</summary>{listing}</details>"


# --- missing values --------------------------------------------------------------------------------------------------


def missing(study: Published) -> str:
    """Return which values are missing and why, and which are to be read with care."""
    rows = study.tables.similarities
    rows = rows[rows["problem"] == study.problem]
    return _grouped(rows[rows["value"].isna()], "reason", study, "Missing values", "No value is missing.") + _grouped(
        rows[rows["value"].notna() & (rows["warning"] != "")],
        "warning",
        study,
        "Values to be read with care",
        "No value carries a warning.",
    )


def _grouped(rows: pd.DataFrame, column: str, study: Published, caption: str, none: str) -> str:
    if rows.empty:
        return f"<p>{none}</p>"
    cells = []
    for (reason, metric), group in rows.groupby([column, "metric"], sort=False):
        layers = list(group.sort_values("position")["layer"].drop_duplicates())
        iterations = sorted(set(group["iteration"]))
        span = f"{iterations[0]}" if len(iterations) == 1 else f"{iterations[0]}–{iterations[-1]}"
        cells.append(
            (text(str(reason)), text(label(metric, study.labels)), text(", ".join(layers)), span, str(len(group)))
        )
    return table(("Why", "Metric", "Layers", "Iterations", "Values"), cells, caption)


# --- how it was run --------------------------------------------------------------------------------------------------


def how(study: Published) -> str:
    """Return what determines the numbers, on which machines they were computed, and the commands that redo it."""
    rows = [(text(name), text(value)) for name, value in decided_by(study.identity)]
    spec = table(("What", "Value"), rows, "What determines every number")
    return spec + _parts(study) + _environments(study) + _commands(study)


def _parts(study: Published) -> str:
    rows = [
        (
            str(part["complete"]),
            str(part["runs"]),
            str(part["iterations"]),
            f"{part['training_hours']:.2f} h",
            f"{part['comparison_hours']:.2f} h",
            f"{text(part['first'][:10])} – {text(part['last'][:10])}",
            text(", ".join(map(str, part["environments"]))),
            f"<code>{text(part['command'])}</code>",
        )
        for part in study.parts
    ]
    head = ("Complete network", "Runs", "Iterations", "Training", "Comparisons", "When", "Machines", "Command")
    return table(head, rows, "Runs, by the complete network that they start from; hours are of all processes together")


def _environments(study: Published) -> str:
    rows = []
    for record in study.environments.astype("str").fillna("not known").to_dict("records"):
        versions = [f"{name} {record[name]}" for name in ("torch", "numpy", "python", "distsim") if name in record]
        rows.append(
            (text(record["environment"]), text(machine(record)), text(record["threads"]), text(", ".join(versions)))
        )
    return table(("Machine", "What", "Threads", "Versions"), rows, "Machines")


def _commands(study: Published) -> str:
    first = first_metric(study.tables.summary["metric"])
    rows = []
    for name, figure, metric in FIGURES:
        of_metric = f', metric="{first}"' if metric else ""
        code = f'distsim.open("STORE").figure("{figure}", problem="{study.problem}"{of_metric}).savefig("{figure}.pdf")'
        rows.append((text(name), f"<code>python -c {text(repr(f'import distsim; {code}'))}</code>"))
    rows.append(("Claims", f"<code>distsim claims STORE --problem {text(study.problem)} --out claims.csv</code>"))
    rows.append(("This page", "<code>distsim report STORE</code>"))
    return table(("What", "Command"), rows, "Commands that make each figure again; STORE is the study’s folder")
