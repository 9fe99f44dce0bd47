"""Linear algebra that every library of arrays has under another name, or does faster through PyTorch."""

import importlib.util
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_cupy_array, is_torch_array

from distsim.metrics.arrays import Array, Workspace
from distsim.metrics.reads import NOW, Number, Reads

SMALL = 512  # NumPy matrices of more rows than this are factored by PyTorch
TILE = 512  # rows, or rows and columns, of a block


def inner(A: Array, B: Array, reads: Reads = NOW) -> Number:
    """Return ⟨A, B⟩_F.

    Written as sums, because the libraries' own dot products lose digits on large arrays. Taken in blocks of rows, so
    that no array of A's size is made.
    """
    xp = array_namespace(A, B)
    return sum(reads.number(xp.sum(A[i : i + TILE, :] * B[i : i + TILE, :])) for i in range(0, A.shape[0], TILE))


def running_sum(A: Array) -> Array:
    """Return the sums A[0] + ... + A[i], (n,), of a vector (n,).

    Not by a GPU's cumulative sum, which PyTorch refuses where results have to repeat themselves.
    """
    xp = array_namespace(A)
    if isinstance(A, np.ndarray):
        return xp.cumulative_sum(A)
    return xp.tril(xp.ones((A.shape[0], A.shape[0]), dtype=A.dtype, device=device(A))) @ A


def congruence(C: Array, L: Array, workspace: Workspace) -> Array:
    """Return the lower triangle of CᵀLC, for lower triangular C and symmetric L (n, n). Above it may be anything.

    On a CPU the zero blocks of C are skipped: 2/3 n³ multiplications and as many additions, instead of 2 n³ of each.
    """
    if not isinstance(C, np.ndarray):
        return C.T @ (L @ C)
    n = C.shape[0]
    product = workspace.empty(C, f"congruence {C.dtype}", C.shape, C.dtype)
    for j in range(0, n, TILE):
        right = L[:, j:] @ C[j:, j : j + TILE]
        for i in range(j, n, TILE):
            product[i : i + TILE, j : j + TILE] = C[i:, i : i + TILE].T @ right[i:]
    return product


def eigvalsh(A: Array) -> Array:
    """Return the eigenvalues, ascending, of the symmetric matrix whose lower triangle is A's."""
    torch = _torch() if isinstance(A, np.ndarray) and len(A) > SMALL else None
    if torch is not None:
        return torch.linalg.eigvalsh(torch.from_numpy(A), UPLO="L").numpy()
    return array_namespace(A).linalg.eigvalsh(A)


def by_both(M: Array, reads: Reads = NOW) -> Number:
    """Return the sum of M's singular values σ from the eigenvalues ±σ of [0 Mᵀ; M 0], with the digits of an SVD."""
    xp, (rows, columns) = array_namespace(M), M.shape
    both = xp.zeros((rows + columns, rows + columns), dtype=M.dtype, device=device(M))
    both[columns:, :columns], both[:columns, columns:] = M, M.T
    return reads.number(xp.sum(xp.abs(eigvalsh(both)))) / 2


def cholesky(A: Array, reads: Reads = NOW) -> Array | None:
    """Return the lower triangular C with CCᵀ = A, or None if A is not positive definite to working precision."""
    xp = array_namespace(A)
    if is_torch_array(A):
        import torch

        C, info = torch.linalg.cholesky_ex(A)  # unlike `cholesky` it does not wait for a GPU to say whether it failed
        return C if reads.decide((info == 0) & _finite(C), likely=True) else None
    library = _torch() if isinstance(A, np.ndarray) and len(A) > SMALL else None
    try:
        C = xp.linalg.cholesky(A) if library is None else library.linalg.cholesky(library.from_numpy(A)).numpy()
    except (np.linalg.LinAlgError, RuntimeError):  # NumPy raises the first, torch the second; CuPy returns NaN
        return None
    return C if reads.decide(_finite(C), likely=True) else None


def _finite(C: Array) -> Array:
    xp = array_namespace(C)
    return xp.isfinite(xp.sum(xp.linalg.diagonal(C)))


def solve_lower(C: Array, B: Array, transposed: bool = False) -> Array:
    """Return Z with CZ = B, or CᵀZ = B if `transposed`, for a lower triangular C (n, n) and B (n, m)."""
    if is_torch_array(C):
        import torch

        return torch.linalg.solve_triangular(C.T if transposed else C, B, upper=transposed)
    if is_cupy_array(C):
        from cupyx.scipy.linalg import solve_triangular
    elif isinstance(C, np.ndarray) and importlib.util.find_spec("scipy"):
        from scipy.linalg import solve_triangular
    else:  # neither NumPy nor the array API knows triangular matrices
        return array_namespace(C).linalg.solve(C.T if transposed else C, B)
    return solve_triangular(C, B, trans=int(transposed), lower=True, check_finite=False)


def _torch() -> Any:
    """Return PyTorch, whose LAPACK takes half of NumPy's time at n = 5,000, or None if it is not installed.

    Call it for large matrices only, so that small ones do not import PyTorch.
    """
    try:
        import torch
    except ImportError:
        return None
    return torch
