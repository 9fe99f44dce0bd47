"""Matrices on which bounds of a nuclear norm are tried: of many shapes and spectra, and some of exactly known norm."""

import numpy as np

START = 1e-9  # singular values of this share of the Frobenius norm are the smallest that QDWH brings to 1
PEAK = 8e-7  # where its first step is most sensitive to rounding


def orthogonal(rng, rows, columns):
    return np.linalg.qr(rng.standard_normal((rows, columns)))[0]


def of_spectrum(rng, m, n, values):
    k = min(m, n)
    return (orthogonal(rng, m, k) * values) @ orthogonal(rng, n, k).T


def gaussian(rng, m, n):
    return rng.standard_normal((m, n))


def deficient(rng, m, n):
    rank = int(rng.integers(1, min(m, n) + 1))
    return rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n))


def graded(rng, m, n):
    return of_spectrum(rng, m, n, np.logspace(0, -rng.uniform(1, 18), min(m, n)))


def near_rank_one(rng, m, n):
    M = np.outer(rng.standard_normal(m), rng.standard_normal(n))
    return M + 10.0 ** -rng.uniform(0, 17) * rng.standard_normal((m, n))


def ties(rng, m, n):
    """Few different singular values, each many times."""
    return of_spectrum(rng, m, n, rng.choice(10.0 ** -rng.uniform(0, 12, 3), min(m, n)))


def at_the_edge(rng, m, n):
    """All but one near l₀, or where the first step is most sensitive."""
    values = rng.choice([START, PEAK, 1e-8]) * 10 ** rng.uniform(-0.7, 0.7, min(m, n))
    values[0] = 1
    return of_spectrum(rng, m, n, values)


def equal(rng, m, n):
    """All singular values equal: the lower bound is tight."""
    return of_spectrum(rng, m, n, np.ones(min(m, n)))


def dead(rng, m, n):
    M = rng.standard_normal((m, n))
    M[rng.random(m) < 0.5] = 0
    M[:, rng.random(n) < 0.5] = 0
    M[0, 0] = 1
    return M


def sparse(rng, m, n):
    """Entries of all magnitudes, so that single rows stand out."""
    M = np.where(rng.random((m, n)) < 0.1, 10.0 ** rng.uniform(-12, 3, (m, n)), 0)
    M[-1, -1] = 1
    return M


def nilpotent(rng, m, n):
    """Far from normal: ones above the diagonal, and graded rows."""
    return np.eye(m, n, 1) * np.logspace(0, -rng.uniform(0, 14), m)[:, None] + (min(m, n) == 1)


KINDS = (gaussian, deficient, graded, near_rank_one, ties, at_the_edge, equal, dead, sparse, nilpotent)


def hard(seed, largest):
    """Return the kind of a matrix, and the matrix, at most `largest` by `largest`. The kinds follow each other."""
    rng = np.random.default_rng([16, seed])
    kind = KINDS[seed % len(KINDS)]
    m, n = (int(largest ** rng.random()) for _ in range(2))
    M = kind(rng, m, n) * 10.0 ** rng.choice([0, 0, 0, -40, 40])
    return kind.__name__, M


def hadamard(power):
    H = np.ones((1, 1))
    for _ in range(power):
        H = np.block([[H, H], [H, -H]])
    return H


def exact(seed, largest=7):
    """Return a matrix of whole numbers, without any rounding, and its nuclear norm, which is a whole number too.

    H·D·H for Hadamard's H (HHᵀ = n) and powers of 2 in D has the singular values n·D.
    """
    rng = np.random.default_rng([17, seed])
    power = int(rng.integers(0, largest + 1))
    H, n = hadamard(power), 2**power
    D = 2.0 ** rng.integers(0, 1 + rng.choice([0, 1, 20, 40]), n)
    M = (H * D) @ H[:, rng.permutation(n)].T * rng.choice([-1, 1], n)
    return M[rng.permutation(n)], float(n * D.sum())
