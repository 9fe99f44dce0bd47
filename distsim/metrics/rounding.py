"""What counts as rounding: the unit of an array's values, which columns are constant, which eigenvalues are zero.

These decisions are taken here and nowhere else, with one exception: `kernels` says how much the routes to a nuclear
norm may lose.

Unit. Values carry the relative rounding ε of the dtype in which they were computed, whatever computes with them later:
1.2e-7 for float32 and narrower, 2.2e-16 for float64.

Constant columns. Behind a dead layer every example has the same value, up to rounding: batches of another size sum the
same products in another order. Each of k roundings is half a unit of the sum so far. Together they leave about √k/2
units by chance, and k/2 at most. `SAME` = 8 units therefore cover some 250 roundings by chance, or 16 that all go one
way. Measured: sums of up to 4,096 products of one sign, in batches of 1 to 500, differed by up to 7. (If products of
both signs cancel, the rounding is that of the larger sums before, and a constant column may be taken for one that
varies.) A larger factor would gain little and lose data: within 8 units there are at most 33 distinct values. A mean
taken in float64 adds less than 2 of float64's units, even over millions of rows.

Zero eigenvalues. If the entries of a symmetric matrix change by E, each eigenvalue moves by at most ‖E‖₂ (Weyl).

- Products of columns, XᵀX (p, p). Scaled to correlations, no entry is above 1, and none is wrong by more than some c·ε,
  since each is a sum in float64, taken in blocks. So ‖E‖₂ ≤ ‖E‖_F ≤ p·c·ε, and λ_max ≥ 1, since the p eigenvalues sum
  to p. With c = `FLOOR` = 10, rounding stays below `FLOOR`·p·ε·λ_max. The factor p is the worst case, not what chance
  leaves. Measured for p from 64 to 512: 2.3·ε·λ_max at most. The worst case is used because a direction that is kept is
  scaled to unit variance and counts fully, however small it was.
- Gram matrices, XXᵀ (n, n). Their entries are wrong by about unit·|Kᵢⱼ|, by chance. Then ‖E‖₂ is about
  2·unit·‖K‖_F/√n, at most 2·unit·λ_max, whatever n is. Measured: 1.9. `FLOOR`·unit·λ_max is five times that. A higher
  floor would cut genuine directions, because the root of an eigenvalue is what counts: √(10·ε) = 5e-8 of the largest.
- Squared pivots of a Cholesky factor of a Gram matrix stand in for its smallest eigenvalues, and are never below them.
  `PIVOT` = 16 units of the largest diagonal entry leave room for the rounding of the entries and of the elimination.
  Below `DROWNED` = 1e-10 the squares of small singular values are lost in float64's rounding of the large ones,
  whatever the unit is.
"""

from typing import Any

import numpy as np
from array_api_compat import array_namespace

from distsim.metrics.reads import NOW, Number, Reads

EPS = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)
SAME = 8  # units by which the values of a constant column may differ from their mean
FLOOR = 10  # times ε·λ_max (times p for products of columns): eigenvalues up to this are rounding
PIVOT = 16  # units of the largest diagonal entry: squared pivots up to this are rounding
DROWNED = 1e-10  # of the largest diagonal entry: squared pivots up to this are resolved by no float64 product

Array = Any  # as in distsim.metrics.arrays


def unit_of(A: Array) -> float:
    """Return ε of an array's values: float32's for float32 and narrower floats, float64's for everything else."""
    narrow = any(name in str(A.dtype) for name in ("float32", "float16"))  # "bfloat16" contains "float16"
    return EPS32 if narrow else EPS


def is_constant(deviation: Array, mean: Array, unit: float) -> Array:
    """Return which columns are constant, (p,) bool.

    deviation : (p,) the largest absolute deviation from the column's mean; mean : (p,)
    unit : ε of the values, from `unit_of`
    """
    return deviation <= SAME * unit * array_namespace(mean).abs(mean)


def squares_of_constant(n: int, mean: Array) -> Array:
    """Return the sum of squared deviations, (p,), up to which a column of n float64 values is constant.

    It is the sum for n values that are all as far from their column's mean as `is_constant` allows.
    """
    return n * (SAME * EPS * array_namespace(mean).abs(mean)) ** 2


def rank_of_products(values: Array, reads: Reads = NOW) -> Number:
    """Return how many of all p eigenvalues of XᵀX, descending, are above rounding. X has centred columns."""
    return reads.count(values > FLOOR * int(values.shape[0]) * EPS * values[0])


def rank_of_gram(values: Array, unit: float, reads: Reads = NOW) -> Number:
    """Return how many eigenvalues of a Gram matrix, ascending, are above rounding. unit : ε of its entries."""
    return reads.count(values > FLOOR * unit * values[-1])


def least_pivot(unit: float) -> float:
    """Return the least squared pivot of a regular Gram matrix, as a share of its largest diagonal entry.

    unit : ε of its entries
    """
    return max(PIVOT * unit, DROWNED)
