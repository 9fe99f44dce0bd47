"""The claims of the two papers, C1 to C18."""

from collections.abc import Callable, Iterable

import pandas as pd

from distsim.results.claims.parts import (
    bowl_depth,
    convolutions,
    declines,
    differs_from_control,
    falls,
    falls_beyond,
    falls_with_depth,
    falls_with_iteration,
    fans_out,
    gathers,
    lowest,
    lowest_in,
    lowest_near,
    quotient,
    same_shape,
    scatters,
    spikes,
    stays_above,
    stays_within,
    u_shaped,
)
from distsim.results.claims.study import (
    EASY,
    HARD,
    P1_CIFAR10,
    P2_METRICS,
    P2_PROBLEMS,
    RESNET,
    SVHN,
    VGG16,
    Absent,
    Claim,
    Evidence,
    Part,
    T,
)
from distsim.results.tables import Tables, runs_of

# --- the claims, each by a function that returns its conditions -------------------------------------------------------


def _c1(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study = evidence.study(problem, metric)
    return [falls_with_iteration(study, study.hidden.index)]


def _c2(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    """Judge C2. Pooling layers are set aside, as in P1 ("if we do not consider ... almost all pooling layers")."""
    study = evidence.study(problem, metric)
    layers = study.hidden.index[study.kinds[study.hidden.index] != "pool"]
    return [falls_with_depth("falls from input to output, pooling set aside", study, layers)]


def _c3(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study = evidence.study(problem, metric)
    if "fc" not in set(study.kinds):
        raise Absent("a hidden fully-connected layer")
    profile = study.profile
    first = profile.iloc[0] - profile.iloc[1:].min()
    high = Part("high at the first convolution", first >= T.u_depth, {"first_above_lowest": first})
    fc = profile.index.get_loc(study.kinds.index[study.kinds == "fc"][0])
    return [high, lowest_near(study, 3), spikes("spike at fc", profile.iloc[fc], profile.iloc[fc - 1])]


def _c4(evidence: Evidence, _: str, metric: str) -> list[Part]:
    def spreads(problems: Iterable[str]) -> float:
        levels = [evidence.study(problem, metric).hidden for problem in problems]
        return float(pd.concat([level.max(axis=1) - level.min(axis=1) for level in levels]).median())

    easy, hard = spreads(EASY), spreads(HARD)
    ratio = quotient(hard, easy)
    numbers = {"spread_easy": easy, "spread_hard": hard, "spread_ratio": ratio}
    ok = ratio <= T.smaller and easy - hard >= T.effect
    return [Part("spread over iterations smaller for the harder problems", ok, numbers)]


def _c5(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study = evidence.study(problem, metric)
    late = [*study.block(5), *study.kinds.index[study.kinds == "out"]]
    early = [layer for layer in study.levels.index if layer not in late]
    ratio = quotient(study.spread(late), study.spread(early))
    minimum, (low, high) = float(study.levels.to_numpy().min()), T.c5_minimum
    return [
        u_shaped(study, T.u_depth),
        lowest_near(study, 3),
        Part(f"minimum within {low:g}–{high:g}", low <= minimum <= high, {"minimum": minimum}),
        stays_above("output at least", study.output, T.c5_output, "output_minimum"),
        falls_with_iteration(study, study.levels.index),
        Part("falls less near the output", ratio <= T.smaller, {"spread_ratio": ratio}),
    ]


def _c6(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study = evidence.study(problem, metric)
    return [
        stays_above("never below", study.levels, T.c6_lowest),
        falls_with_depth("falls towards the output", study, study.hidden.index),
        fans_out(study),
        stays_within("output within about", study.output, T.c6_output, "output"),
        scatters("output scattered", study.output, T.c6_scatter),
        gathers(study, T.c6_gathering),
    ]


def _c7(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study, cka = evidence.study(problem, metric), evidence.study(problem, "cka")
    above = float((study.output - cka.output).min())
    third_pool = [layer for layer in study.block(3) if study.kinds[layer] == "pool"]
    return [
        stays_within("within about", study.levels, T.c7_levels, "level"),
        fans_out(study),
        lowest_in("from the third pool to the next convolutions", study, third_pool + convolutions(study, 4)),
        u_shaped(study, T.u_depth_nbs),
        Part("output above CKA's", above >= T.effect, {"output_above_cka": above}),
        gathers(study, T.c7_gathering),
    ]


def _c8(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study = evidence.study(problem, metric)
    profile = study.profile
    if metric == "nbs":
        cka = evidence.study(problem, "cka").profile
        outside = profile.index.difference(study.block(3))
        apart = float((profile - cka)[outside].abs().median())
        bowl, bowl_nbs = bowl_depth(cka, study), bowl_depth(profile, study)
        return [
            Part("close to CKA outside block 3", apart <= T.about, {"apart": apart}),
            Part("CKA has a bowl in block 3", bowl >= T.u_depth_nbs, {"bowl_cka": bowl}),
            Part("its own bowl is shallower", bowl - bowl_nbs >= T.effect, {"bowl_nbs": bowl_nbs}),
        ]
    early, late = profile[study.block(1, 2)].min(), [profile[study.block(number)].min() for number in (3, 4)]
    bottoms = [profile.index.get_loc(profile[study.block(number)].idxmin()) for number in (3, 4)]
    between = float(profile.iloc[bottoms[0] : bottoms[1] + 1].max()) - max(late)
    recovery = profile.iloc[-1] - profile.min()
    return [
        Part("minima in blocks 3 and 4", max(late) < early, {"early": early, "block3": late[0], "block4": late[1]}),
        Part("two bottoms, with a rise between them", between >= T.c8_between, {"between": between}),
        Part("no recovery in hidden layers", recovery < T.u_depth, {"recovery": recovery}),
        spikes("spike at the output", study.output.mean(), profile.iloc[-1]),
    ]


def _c9(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    """Judge C9. `metric` may be a variant of SVCCA or PWCCA, with the same levels.

    The third convolution is read as conv3 of P2's Fig. 3, the first of block 3.

    In this reading NBS's minimum in the second residual block is also 2–3 layers later, as P2 §6.1 says.
    """
    study = evidence.study(problem, metric)
    profile = study.profile
    if metric == "cka":
        spread = profile.max() - profile.min()
        flat = Part("without trend over hidden layers", spread <= T.flat, {"profile_range": spread})
        return [stays_above("at least", study.levels, T.c9_cka - T.about), flat]
    if metric == "nbs":
        residual = [layer for layer in study.block(3) if study.kinds[layer] in ("conv_res", "add")]
        return [
            stays_above("at least", study.levels, T.c9_nbs),
            lowest_in("in the second residual block", study, residual),
        ]
    near = abs(study.lowest_at - study.at(convolutions(study, 3)[0])) <= T.near_layers
    recovery = profile.iloc[-1] - profile.min()
    steps = study.levels.diff(axis=1).abs().mean(axis=0).iloc[1:]
    if len(steps) < 2:
        raise Absent("at least three iterations")
    ratio = quotient(steps.iloc[len(steps) // 2 :].median(), steps.iloc[: len(steps) // 2].median())
    return [
        stays_above("at least", study.levels, T.c9_svcca if metric.startswith("svcca") else T.c9_pwcca),
        Part(f"lowest at the third convolution ({study.lowest})", near, lowest(study)),
        Part("weak recovery in hidden layers", recovery < T.u_depth, {"recovery": recovery}),
        Part("curves of successive iterations draw together", ratio <= T.smaller, {"step_ratio": ratio}),
    ]


def _c10(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    rows = evidence.accuracy(problem)
    accuracy, complete = rows["mean"], float(rows["mean"][0])
    pruned = accuracy.drop(0)
    if problem == SVHN:
        networks = evidence.tables.networks
        runs = networks[(networks["problem"] == problem) & (networks["iteration"] > 0)]
        by_run = runs.pivot_table(index=runs_of(runs), columns="iteration", values="accuracy")
        first = complete - float(pruned.iloc[0])
        return [
            Part("first iteration below the complete network", first >= T.c10_apart, {"first_loss": first}),
            falls("falls with iteration", accuracy, by_run, effect=T.effect_accuracy),
        ]
    gain = float(pruned[pruned.index <= T.c10_first].min()) - complete
    peak, last = pruned.idxmax(), float(pruned.iloc[-1])
    left = float(rows["remaining"][peak])
    return [
        Part("first iterations beat the complete network", gain >= T.c10_apart, {"first_gain": gain}),
        Part("peak at about 10 % left", T.c10_peak[0] <= left <= T.c10_peak[1], {"peak_remaining": left}),
        declines("then declines", pruned.loc[peak:]),
        Part("stays comparable", last >= complete - T.comparable, {"last_minus_complete": last - complete}),
    ]


def _c11(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    output = evidence.study(problem, metric).output
    if metric != "cosine":
        return [stays_above("output above", output, T.c11_output)]
    within = stays_within("within about", output, T.c11_cosine, "output")
    low, high = (abs(end - bound) <= T.about for end, bound in zip(within.numbers.values(), T.c11_cosine, strict=True))
    return [Part(f"spread over about {T.c11_cosine[0]:g}–{T.c11_cosine[1]:g}", low and high, within.numbers)]


def _c12(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study = evidence.study(problem, metric)
    return [falls_with_iteration(study, study.levels.index)]


def _c13(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    return [stays_above("never below", evidence.study(problem, metric).levels, T.c13_lowest)]


def _c14(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    nbs, (low, high) = evidence.study(problem, metric), T.c14_lag
    parts = []
    for other in ("svcca", "pwcca"):
        lag = nbs.lowest_at - evidence.study(problem, other).lowest_at
        parts.append(
            Part(f"minimum {low}–{high} layers after that of {other}", low <= lag <= high, {f"lag_{other}": lag})
        )
    return parts


def _c15(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    study = evidence.study(problem, metric)
    steps = study.profile.diff()[study.kinds[study.hidden.index] == "pool"]
    if steps.empty:
        raise Absent("a pooling layer")
    share = float((steps >= T.tick).mean())
    numbers = {"share_up": share, "median_step": float(steps.median())}
    return [Part("almost all pooling layers tick up", share >= T.most, numbers)]


def _c16(evidence: Evidence, problem: str, _: str) -> list[Part]:
    accuracy = evidence.accuracy(problem)["median"]
    complete, pruned = float(accuracy[0]), accuracy.drop(0)
    numbers = {"complete": complete, "worst": float(pruned.min()), "worst_iteration": float(pruned.idxmin())}
    return [Part("no iteration worse than comparable", pruned.min() >= complete - T.comparable, numbers)]


def _c17(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    """Judge C17, as P2 §3.1 does, on P1's cifar10 (weight rewinding) and P2's VGG16 (learning-rate rewinding).

    Of other problems it is judged where one of them was pruned with both: `name` and `name_wr` or `name_lrr`.
    """
    if problem != "all":
        (other,) = (name for name in _twins(evidence.tables)[problem])
        return same_shape(evidence.study(problem, metric), evidence.study(other, metric))
    return same_shape(evidence.study(P1_CIFAR10, metric), evidence.study(VGG16, metric))


def _twins(tables: Tables) -> dict[str, list[str]]:
    """Return the problems of which the tables have a twin of the other rewinding, with that twin."""
    names = set(tables.summary["problem"])
    ends = ("_wr", "_lrr")
    twins = {name: [name + end for end in ends if name + end in names][:1] for name in sorted(names)}
    return {name: twin for name, twin in twins.items() if twin}


def _rewindings(tables: Tables) -> list[tuple[str, str]]:
    return [("all", "svcca"), *((name, "svcca") for name in _twins(tables))]


def _c18(evidence: Evidence, problem: str, metric: str) -> list[Part]:
    """Judge C18: what another path of the optimiser does by itself is what retraining without pruning does."""
    parts = []
    for one in (*EASY, *HARD) if problem == "all" else (problem,):
        study, control = evidence.study(one, metric), evidence.control(one, metric)
        beyond = falls_beyond(study, control, study.hidden.index)
        of_one = [Part("falls with the iteration " + beyond.says, beyond.ok, beyond.numbers)]
        of_one += differs_from_control(study, control)
        name = f"{one}_" if problem == "all" else ""
        where = f"{one}: " if problem == "all" else ""
        parts += [Part(where + p.says, p.ok, {name + key: value for key, value in p.numbers.items()}) for p in of_one]
    return parts


def _controlled(tables: Tables) -> list[tuple[str, str]]:
    """Return the cases of C18: P1's problems together, and each problem whose control was compared by SVCCA."""
    summary = tables.summary
    if "control" not in summary:
        return [("all", "svcca")]
    rows = summary[(summary["control"] == "retrain") & (summary["metric"] == "svcca")]
    return [("all", "svcca"), *((name, "svcca") for name in sorted(set(rows["problem"])))]


def _cases(problems: Iterable[str], metrics: Iterable[str]) -> Callable[[Tables], list[tuple[str, str]]]:
    pairs = [(problem, metric) for problem in problems for metric in metrics]
    return lambda tables: pairs


# Of SVCCA and PWCCA two definitions are in use. Where a claim is about a level, all that the tables hold are judged.
VARIANTS = {"svcca": "svcca_mass98", "pwcca": "pwcca_google"}


def _levels(problem: str, metrics: Iterable[str]) -> Callable[[Tables], list[tuple[str, str]]]:
    """Return the cases of a claim about levels: each metric, and its variant if the tables have it."""

    def cases(tables: Tables) -> list[tuple[str, str]]:
        there = set(tables.summary.loc[tables.summary["problem"] == problem, "metric"])
        variants = [VARIANTS[metric] for metric in metrics if metric in VARIANTS]
        return [(problem, metric) for metric in (*metrics, *(name for name in variants if name in there))]

    return cases


def _every_model(metrics: Iterable[str]) -> Callable[[Tables], list[tuple[str, str]]]:
    """Return the cases of a claim about every model: P2's models, even without data, and all others in the tables."""

    def cases(tables: Tables) -> list[tuple[str, str]]:
        others = sorted(set(tables.summary["problem"]) - set(P2_PROBLEMS))
        return [(problem, metric) for problem in (*P2_PROBLEMS, *others) for metric in metrics]

    return cases


CLAIMS = (
    Claim("C1", "P1 §5.2", "median", _cases(EASY, ["svcca"]), _c1, over_iterations=True),
    Claim("C2", "P1 §5.2", "median", _cases(EASY, ["svcca"]), _c2),
    Claim("C3", "P1 §5.2", "median", _cases(HARD, ["svcca"]), _c3),
    Claim("C4", "P1 §5.2", "median", _cases(["all"], ["svcca"]), _c4),
    Claim("C5", "P2 §5.2", "mean", _levels(VGG16, ["svcca", "pwcca"]), _c5, over_iterations=True),
    Claim("C6", "P2 §5.2", "mean", _cases([VGG16], ["cka"]), _c6),
    Claim("C7", "P2 §5.2", "mean", _cases([VGG16], ["nbs"]), _c7),
    Claim("C8", "P2 §5.2", "mean", _cases([SVHN], ["svcca", "pwcca", "nbs"]), _c8),
    Claim("C9", "P2 §5.3", "mean", _levels(RESNET, P2_METRICS), _c9),
    Claim("C10", "P2 §5.1", "mean", _cases(P2_PROBLEMS, ["accuracy"]), _c10),
    Claim("C11", "P2 §6.2", "mean", _levels(VGG16, ["svcca", "pwcca", "nbs", "cosine"]), _c11),
    Claim("C12", "P2 §7", "mean", _every_model(P2_METRICS), _c12, over_iterations=True),
    Claim("C13", "P2 §7", "mean", _every_model(["cka"]), _c13),
    Claim("C14", "P2 §6.1", "mean", _cases(P2_PROBLEMS, ["nbs"]), _c14),
    Claim("C15", "P1 §5.2", "median", _cases(EASY + HARD, ["svcca"]), _c15),
    Claim("C16", "P1 §5.2", "median", _cases(EASY + HARD, ["accuracy"]), _c16),
    Claim("C17", "P2 §3.1", "mean", _rewindings, _c17),
    Claim("C18", "P1 §5.2", "median", _controlled, _c18),
)
