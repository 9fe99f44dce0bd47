"""Faults that outsiders found where a claim or a value rested on a difference as small as rounding, made again."""

from mutants.mutant import Kind, Mutant

PLANTED = "results/test_claims_planted.py::"
SIMILARITIES = (PLANTED + "test_one_similarity_on_either_side_of_a_threshold",)
ACCURACIES = (PLANTED + "test_accuracies_on_either_side_of_a_threshold",)
FIELD = "metrics/test_of_the_field.py::"

CLAIMS = (
    Mutant(
        "layers-fall-by-a-millionth",
        "A layer counts as falling by however little.",
        "results/claims/parts.py",
        "row[0] - row[-1] >= T.effect for row",
        "row[0] > row[-1] for row",
        SIMILARITIES,
    ),
    Mutant(
        "blocks-fan-out-by-a-millionth",
        "Later layers fan out, by a millionth more than blocks 1 and 2.",
        "results/claims/parts.py",
        "    ok = ratio <= T.smaller and fanned - packed >= T.effect\n",
        "    ok = ratio <= T.smaller\n",
        SIMILARITIES,
    ),
    Mutant(
        "iterations-closer-by-a-millionth",
        "C4 holds where no problem's iterations lie apart.",
        "results/claims/papers.py",
        "    ok = ratio <= T.smaller and easy - hard >= T.effect\n",
        "    ok = ratio <= T.smaller\n",
        (PLANTED + "test_c4_needs_spreads_that_differ_by_an_effect",),
    ),
    Mutant(
        "outputs-above-by-a-billionth",
        "NBS of the output is above CKA's by a billionth, and C7 holds.",
        "results/claims/papers.py",
        "above >= T.effect",
        "above > 0",
        SIMILARITIES,
    ),
    Mutant(
        "bowls-shallower-by-a-hair",
        "The bowl of NBS is shallower than that of CKA by however little, and C8 holds.",
        "results/claims/papers.py",
        "bowl - bowl_nbs >= T.effect",
        "bowl_nbs < bowl",
        SIMILARITIES,
    ),
    Mutant(
        "ticks-of-a-hair",
        "A pooling layer ticks up by however little, and C15 holds.",
        "results/claims/papers.py",
        "(steps >= T.tick)",
        "(steps > 0)",
        SIMILARITIES,
    ),
    Mutant(
        "first-networks-better-by-luck",
        "The first pruned networks beat the complete one by one image of ten thousand, and C10 holds.",
        "results/claims/papers.py",
        "gain >= T.c10_apart",
        "gain > 0",
        ACCURACIES,
    ),
    Mutant(
        "first-networks-worse-by-luck",
        "On SVHN the first pruned network is worse by one image of ten thousand, and C10 holds.",
        "results/claims/papers.py",
        "first >= T.c10_apart",
        "first > 0",
        ACCURACIES,
    ),
)

ROUNDING = (
    Mutant(
        "copies-are-near-as-they-are-rounded",
        "Which of two copies of an example is the nearer one depends on the processor.",
        "metrics/neighbours.py",
        "    rounding = ROUNDING * side.unit * (",
        "    rounding = 0 * side.unit * (",
        (FIELD + "test_copies_of_an_example_are_equally_near",),
    ),
    Mutant(
        "constant-vector-among-eigenvectors",
        "The eigenvalue of the mean, which is rounding, has a say in the choice of a penalty.",
        "metrics/predictivity.py",
        "    return (G - 2 * (G @ w)[:, None] * w[None, :])[:, 1:]\n",
        "    return G\n",
        (FIELD + "test_small_penalties_are_not_judged_by_rounding",),
    ),
    Mutant(
        "directions-of-rounding-count-as-fitted",
        "A penalty is chosen as if directions that are rounding were fitted, so that a small one looks worse.",
        "metrics/predictivity.py",
        "(left.sum(axis=1) + unfitted)",
        "left.sum(axis=1)",
        (FIELD + "test_predictivity_is_ridge_regression_fold_by_fold",),
    ),
)

KINDS = (
    Kind("No claim rests on an arbitrarily small difference", CLAIMS),
    Kind("No value depends on how a processor rounds", ROUNDING),
)
