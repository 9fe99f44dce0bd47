"""Judge the claims of the two papers on tables: which verdict, with which numbers."""

from collections.abc import Mapping
from dataclasses import replace

from distsim.results.claims.papers import CLAIMS
from distsim.results.claims.study import NO_DATA, Absent, Claim, Evidence, Studies, Verdict, has_controls
from distsim.results.tables import Tables


def check(tables: Tables, data: Mapping[str, str] | None = None) -> list[Verdict]:
    """Judge all claims, C1 to C18. Claims about every model are also judged for problems that are not in the papers.

    data : problem -> what to say of its images beside each verdict that uses it, "" if they are the published ones
        (distsim.results.claims.images.remark)
    """
    verdicts, studies = [], Studies(tables)
    for claim in CLAIMS:
        for problem, metric in claim.cases(tables):
            verdict = _verdict(claim, studies, problem, metric, data or {})
            if claim.over_iterations and has_controls(tables):
                beside = _verdict(claim, studies, problem, metric, data or {}, controlled=True)
                verdict = replace(verdict, controlled="" if beside.verdict == NO_DATA else beside.verdict)
            verdicts.append(verdict)
    return verdicts


def check_beyond_control(tables: Tables, data: Mapping[str, str] | None = None) -> list[Verdict]:
    """Judge the claims that similarity falls with the iteration, where it must fall further than without pruning.

    Without networks that were retrained without pruning there is not enough data.
    """
    studies = Studies(tables)
    return [
        _verdict(claim, studies, problem, metric, data or {}, controlled=True)
        for claim in CLAIMS
        if claim.over_iterations
        for problem, metric in claim.cases(tables)
    ]


def _verdict(
    claim: Claim, studies: Studies, problem: str, metric: str, data: Mapping[str, str], controlled: bool = False
) -> Verdict:
    evidence = Evidence(studies, claim.statistic, controlled)
    try:
        parts = claim.judge(evidence, problem, metric)
    except Absent as absent:
        return Verdict(claim.name, problem, metric, NO_DATA, {}, f"Lacks {absent}.", claim.where)
    ok = all(part.ok for part in parts)
    if evidence.full:
        verdict = "holds" if ok else "fails"
    else:
        verdict = "tendency: for" if ok else "tendency: against"
    numbers = evidence.extent | {name: float(number) for part in parts for name, number in part.numbers.items()}
    text = "; ".join(f"{part.says}: {'yes' if part.ok else 'no'}" for part in parts)
    text = text[0].upper() + text[1:] + "."
    remarks = dict.fromkeys(remark for used in evidence.problems if (remark := data.get(used, "")))
    return Verdict(claim.name, problem, metric, verdict, numbers, text, claim.where, "; ".join(remarks))
