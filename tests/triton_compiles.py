"""Compile the Triton kernels for an H100, which needs none. Prints a line for each.

    python tests/triton_compiles.py     without TRITON_INTERPRET

Triton's interpreter lets more pass than its compiler does, such as a value whose type changes in a loop.
"""

from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from distsim.training import kernels

H100 = GPUTarget("cuda", 90, 32)
ARRAYS = ("x", "y", "grad", "back_x")  # of the network's precision
NUMBERS = ("rows", "channels", "each", "parts", "height", "width", "pixels")
SETTINGS = {"ROWS": 64, "COLS": 64, "PARTS": 256, "ACC": kernels.tl.float32}
BOTH = (False, True)
FORMS: tuple[tuple[Any, dict[str, bool]], ...] = (
    (kernels.moments, {}),
    (kernels.statistics, {}),
    *((kernels.forward, {"POOL": pool}) for pool in BOTH),
    *((kernels.gradient_sums, {"POOL": pool}) for pool in BOTH),
    *((kernels.backward, {"POOL": pool, "NORM": norm}) for pool in BOTH for norm in BOTH),
)


def main() -> None:
    for precision in ("*bf16", "*fp32"):
        for kernel, form in FORMS:
            settings = SETTINGS | form
            kinds = {name: _kind(name, precision, settings) for name in kernel.arg_names}
            fixed = {(at,): settings[name] for at, name in enumerate(kernel.arg_names) if name in settings}
            made = compile(ASTSource(fn=kernel, signature=kinds, constexprs=fixed), target=H100)
            print(kernel.__name__, precision, form, len(made.asm["cubin"]))


def _kind(name: str, precision: str, settings: dict[str, Any]) -> str:
    if name in settings:
        return "constexpr"
    if name in NUMBERS:
        return "i32"
    return precision if name in ARRAYS else "*i8" if name == "chosen" else "*fp32"


if __name__ == "__main__":
    main()
