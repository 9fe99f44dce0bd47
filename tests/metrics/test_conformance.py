"""A fixture in closed form, which needs no random generator, and the values that published implementations give on it.

The values come from running the original code (google/svcca, js-d/sim_metric, ahwillia/netrep, moskomule/anatome,
amzn/xfer, Kornblith's CKA) or, where none follows its paper, from QR + SVD as the paper writes it. They are known to
ten digits, so they are compared to 1e-9. The seed is marcozullich/pruned_layer_similarity.
"""

import numpy as np
import pytest

from distsim.metrics import cka, cosine, mean_cca, nbs, pwcca, svcca

from . import plain

pytestmark = pytest.mark.usefixtures("every_backend")

i, j, k = np.arange(1, 65)[:, None], np.arange(1, 7), np.arange(1, 5)
X = np.sin(0.7 * i * j) + 0.1 * j * np.cos(0.3 * i) + 0.25  # (64, 6)
Y = np.cos(0.5 * i * k) + 0.5 * X[:, :4] - 0.4  # (64, 4)
A = X[:, :4]

RHO = [0.5212050546, 0.4763946287, 0.4476548085, 0.4455692445]
CUMULATIVE_X = [0.2760348916, 0.5340181070, 0.7175328343, 0.8590496567, 0.9748664374]
CUMULATIVE_Y = [0.2659033738, 0.5198273920, 0.7599283419]
REVERSED = 3 * X[:, ::-1] + 7
SHEARED = X @ (np.eye(6) + 0.3 * np.tril(np.ones((6, 6))))


def with_zero_column(X, at):
    return np.insert(X, at, 0.0, axis=1)


def agrees(value, published):
    np.testing.assert_allclose(value, published, rtol=0, atol=1e-9)


def test_the_fixture_is_the_published_one():
    np.testing.assert_allclose(X[0, 0], 0.98975134, rtol=0, atol=5e-9)
    np.testing.assert_allclose(X.sum(), 99.9072771139849, rtol=1e-14)
    np.testing.assert_allclose(Y.sum(), -67.55871748894764, rtol=1e-14)


PUBLISHED = {
    "mean CCA": (lambda: mean_cca(X, Y), 0.4727059341),
    "mean CCA, sides exchanged": (lambda: mean_cca(Y, X), 0.4727059341),
    "mean CCA, all four columns are there": (lambda: mean_cca(X, Y, denominator="columns"), 0.4727059341),
    "mean CCA, reversed, scaled, shifted": (lambda: mean_cca(REVERSED, Y), 0.4727059341),
    "mean CCA, sheared": (lambda: mean_cca(SHEARED, Y), 0.4727059341),
    "mean CCA, zero column": (lambda: mean_cca(with_zero_column(X, 2), Y), 0.4727059341),
    "PWCCA from X": (lambda: pwcca(X, Y, side="first"), 0.4741168158),
    "PWCCA from Y": (lambda: pwcca(X, Y, side="second"), 0.4751819286),
    "PWCCA, smaller rank": (lambda: pwcca(X, Y), 0.4751819286),
    "PWCCA, smaller rank, sides exchanged": (lambda: pwcca(Y, X), 0.4751819286),
    "PWCCA, smaller rank has more columns": (
        lambda: pwcca(X, with_zero_column(with_zero_column(with_zero_column(Y, 0), 3), 6)),
        0.4751819286,
    ),
    "PWCCA, equal widths, from A": (lambda: pwcca(A, Y, side="first"), 0.4729163822),
    "PWCCA, equal widths, from Y": (lambda: pwcca(A, Y, side="second"), 0.4714549332),
    "PWCCA, tie goes to the first, A": (lambda: pwcca(A, Y), 0.4729163822),
    "PWCCA, tie goes to the first, Y": (lambda: pwcca(Y, A), 0.4714549332),
    "PWCCA, tie of ranks, unequal widths": (lambda: pwcca(with_zero_column(A, 1), Y), 0.4729163822),
    "PWCCA by google/svcca (A,Y)": (lambda: pwcca(A, Y, side="first", weights="google"), 0.4699038460),
    "PWCCA by google/svcca (Y,A)": (lambda: pwcca(Y, A, side="first", weights="google"), 0.4690453167),
    "PWCCA by google/svcca (Y,X)": (lambda: pwcca(Y, X, side="first", weights="google"), 0.4783836540),
    "PWCCA by google/svcca, the other side": (lambda: pwcca(X, Y, side="second", weights="google"), 0.4783836540),
    "PWCCA by google/svcca, centred": (
        lambda: pwcca(plain.centred(Y), plain.centred(X), side="first", weights="google"),
        0.4751537232,
    ),
    "SVCCA 0.99, the default": (lambda: svcca(X, Y), 0.4727059341),
    "SVCCA 0.99": (lambda: svcca(X, Y, 0.99), 0.4727059341),
    "SVCCA 0.95": (lambda: svcca(X, Y, 0.95), 0.4601731037),
    "SVCCA 0.90": (lambda: svcca(X, Y, variance=0.90), 0.4601731037),
    "CKA": (lambda: cka(X, Y), 0.1805092920),
    "CKA from HSIC₀": (lambda: cka(X, Y), 0.3796594093 / np.sqrt(2.6198280071 * 1.6885597352)),
    "arccos CKA": (lambda: np.arccos(cka(X, Y)), 1.3892921024),
    "CKA, reversed, scaled, shifted": (lambda: cka(REVERSED, Y), 0.1805092920),
    "CKA, sheared": (lambda: cka(SHEARED, Y), 0.1522550011),
    "NBS": (lambda: nbs(X, Y), 0.4033137229),
    "angle of NBS": (lambda: np.arccos(nbs(X, Y)), 1.1556610476),
    "NBS, reversed, scaled, shifted": (lambda: nbs(REVERSED, Y), 0.4033137229),
    "NBS, sheared": (lambda: nbs(SHEARED, Y), 0.3807049492),
    "cosine": (lambda: cosine(A, Y), 0.3148224074),
    "cosine of opposites, absolute": (lambda: cosine(A, -Y), 0.3148224074),
}


@pytest.mark.parametrize("row", PUBLISHED)
def test_published_value(row):
    compute, published = PUBLISHED[row]
    agrees(compute(), published)


@pytest.mark.parametrize("pair", range(4))
def test_each_canonical_correlation(pair):
    """The CCA of one pair of canonical vectors is their correlation."""
    Qx, Qy = plain.basis(X), plain.basis(Y)
    U, _, Vt = np.linalg.svd(Qx.T @ Qy, full_matrices=False)
    agrees(mean_cca(Qx @ U[:, [pair]], Qy @ Vt[[pair]].T), RHO[pair])


def test_mean_squared_correlation_is_the_cka_of_whitened_sides():
    """Σρ² = 4 · 0.2243833326; the denominator of CKA is √6·√4 rather than 4."""
    agrees(cka(plain.basis(X), plain.basis(Y)), 0.2243833326 * 4 / np.sqrt(6 * 4))
    agrees(nbs(plain.basis(X), plain.basis(Y)), 0.4727059341 * 4 / np.sqrt(6 * 4))


@pytest.mark.parametrize(
    ("side", "kept"), [*(("X", kept) for kept in range(1, 6)), *(("Y", kept) for kept in range(1, 4))]
)
def test_svcca_takes_one_direction_more_at_each_cumulative_variance(side, kept):
    """As many directions hold the published share; asked for a little more, SVCCA takes the next one too.

    The other side is a single column, always kept, so its correlation with the directions kept grows with each of them.
    """
    Z, cumulative = (X, CUMULATIVE_X) if side == "X" else (Y, CUMULATIVE_Y)
    share = cumulative[kept - 1]
    column = np.cos(0.11 * i**2)
    fewer, more = (plain.mean_cca(plain.reduced(Z, number), column) for number in (kept, kept + 1))
    agrees(svcca(Z, column, share - 1e-9), fewer)
    agrees(svcca(Z, column, share + 1e-9), more)
    assert more > fewer + 1e-6


def test_all_variance_keeps_every_direction():
    agrees(svcca(X, Y, 1.0), 0.4727059341)


# The same 2-D row of a 4-D tensor in PyTorch's order: T[n, c, h, w] = 0, 1, 2, …
T = np.arange(5 * 3 * 2 * 2, dtype=float).reshape(5, 3, 2, 2)


def test_the_fold_makes_every_position_a_row():
    rows = plain.fold(T)
    assert rows.shape == (20, 3)
    assert rows[1].tolist() == [1, 5, 9]
    assert rows[4].tolist() == [12, 16, 20]


@pytest.mark.parametrize("metric", [mean_cca, svcca, pwcca])
def test_cca_family_folds_positions_into_rows(metric):
    # waves of T's entries have rank 3 in the fold; flattened to 5 rows everything would be correlated perfectly
    Z, W = np.sin(0.9 * T), np.cos(0.4 * T) + 0.3 * np.sin(0.9 * T)
    value = metric(Z, W)
    agrees(value, metric(plain.fold(Z), plain.fold(W)))
    assert value < 0.99


@pytest.mark.parametrize("metric", [cka, nbs, cosine])
def test_kernel_family_and_cosine_flatten_each_example(metric):
    Z, W = np.sin(0.9 * T), np.cos(0.4 * T) + 0.3 * np.sin(0.9 * T)
    agrees(metric(Z, W), metric(plain.flatten(Z), plain.flatten(W)))
    if metric is not cosine:  # for which the order of the entries is all one
        assert abs(metric(Z, W) - metric(plain.fold(Z), plain.fold(W))) > 1e-3


DERIVATIONS = {
    "mean CCA": (lambda: plain.mean_cca(X, Y), 0.4727059341, 1e-10),
    "PWCCA": (lambda: plain.pwcca(X, Y), 0.4751819286, 1e-10),
    "PWCCA from X": (lambda: plain.pwcca_first(X, Y), 0.4741168158, 1e-10),
    "SVCCA 0.95": (lambda: plain.svcca(X, Y, 0.95), 0.4601731037, 1e-10),
    "CKA": (lambda: plain.cka(X, Y), 0.1805092920, 1e-10),
    "NBS, eigenvalues of the product": (lambda: plain.nbs_product(X, Y), 0.4033137229, 1e-7),
    "NBS, nuclear norm": (lambda: plain.nbs_nuclear(X, Y), 0.4033137229, 1e-10),
    "cosine": (lambda: plain.cosine(A, Y), 0.3148224074, 1e-10),
}


@pytest.mark.parametrize("row", DERIVATIONS)
def test_the_plain_derivations_give_the_published_values_too(row):
    """So that what the other tests compare with is itself held against something."""
    compute, published, atol = DERIVATIONS[row]
    np.testing.assert_allclose(compute(), published, rtol=0, atol=atol)


RIDGE_4 = [0.5211520984, 0.4763258370, 0.4475981980, 0.4455147706]
RIDGE_6 = [0.5212045250, 0.4763939405, 0.4476542423, 0.4455686997]
KNOWN_WRONG = {
    "mean of ρ²": (lambda: mean_cca(X, Y), 0.2243833326),
    "svcca: ridge of 1e-4 on the covariances": (lambda: mean_cca(X, Y), np.mean(RIDGE_4)),
    "svcca: ridge of 1e-6 on the covariances": (lambda: mean_cca(X, Y), np.mean(RIDGE_6)),
    "svcca: PWCCA of inputs not centred": (lambda: pwcca(Y, X), 0.4783836540),
    "svcca: PWCCA without the inverse root": (lambda: pwcca(Y, X), 0.4751537232),
    "svcca: PWCCA of equal widths": (lambda: pwcca(A, Y), 0.4699038460),
    "svcca: PWCCA of equal widths, exchanged": (lambda: pwcca(Y, A), 0.4690453167),
    "sim_metric: PWCCA with weights cut off": (lambda: pwcca(X, Y), 0.3673613279),
    "sim_metric: the same from X": (lambda: pwcca(X, Y, side="first"), 0.3673613279),
    "anatome: PWCCA": (lambda: pwcca(X, Y), 0.4768688034),
    "ReSi: SVCCA that keeps one direction": (lambda: svcca(X, Y), 0.1533981500),
    "anatome: SVCCA by σ instead of σ²": (lambda: svcca(X, Y), 0.4694503490),
    "seed: CKA with both means taken along columns": (lambda: cka(X, Y), 0.2188151970),
    "unbiased CKA": (lambda: cka(X, Y), 0.1193974689),
    "minibatch CKA": (lambda: cka(X, Y), 0.1917702329),
    "xfer: NBS from eigenvalues of the product": (lambda: nbs(X, Y), 0.4033137446),
    "cosine row by row, averaged": (lambda: cosine(A, Y), 0.2285220879),
}


@pytest.mark.parametrize("row", KNOWN_WRONG)
def test_values_known_to_be_wrong_or_of_another_metric_are_not_ours(row):
    compute, wrong = KNOWN_WRONG[row]
    assert abs(compute() - wrong) > 1e-8  # ten times what the published values are compared to


def test_the_wrong_cka_is_the_one_whose_centring_broadcasts_along_columns_twice():
    """The seed's defect, written out, gives its published number; and even of K with itself it does not give 1."""

    def centred_along_columns_twice(K):
        return K - K.mean(axis=0) - K.mean(axis=1) + K.mean()

    def seeds_cka(K, L):
        K, L = centred_along_columns_twice(K), centred_along_columns_twice(L)
        return np.trace(K @ L) / (np.linalg.norm(K) * np.linalg.norm(L))

    agrees(seeds_cka(X @ X.T, Y @ Y.T), 0.2188151970)
    assert seeds_cka(X @ X.T, X @ X.T) < 0.7
    agrees(cka(X, X), 1)
