"""Triton kernels for what follows a convolution: bias, batch norm, ReLU and 2x2 max-pooling.

They read and write (rows, channels) in row-major order. A row is a pixel of an image. This is what a tensor
(n, channels, h, w) is whose channels are last in memory. Sums are made in parts, and the parts are added in one
order, so results repeat themselves. Arithmetic is in `ACC`, float32 for all but float64.

Triton's interpreter runs them on a CPU, for tests (TRITON_INTERPRET=1).
"""

import torch
import triton
import triton.language as tl

KINDS = {torch.float32: tl.float32, torch.float64: tl.float64}  # in which to compute


@triton.jit  # type: ignore[untyped-decorator]
def _pixel(row, height, width):  # type: ignore[no-untyped-def]
    """Return the first of the four pixels that a pooled one is the maximum of. height, width : of what is pooled"""
    across, down = width // 2, height // 2
    image = row // (across * down)
    inside = row % (across * down)
    return (image * height + 2 * (inside // across)) * width + 2 * (inside % across)


@triton.jit  # type: ignore[untyped-decorator]
def _of_channels(values, cols, channels):  # type: ignore[no-untyped-def]
    """Return the values of these channels as a row, zeros beyond the last channel."""
    return tl.load(values + cols, mask=cols < channels, other=0.0)[None, :]


@triton.jit  # type: ignore[untyped-decorator]
def moments(x, means, squares, rows, channels, each, ROWS: tl.constexpr, COLS: tl.constexpr, ACC: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write the means of a part's rows, and the sums of their squared distances from these.

    x : (rows, channels); means, squares : (parts, channels); each : rows of a part
    """
    part = tl.program_id(0)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    begin = part * each
    end = tl.minimum(begin + each, rows)
    mean = tl.zeros((COLS,), ACC)
    square = tl.zeros((COLS,), ACC)
    for start in range(begin, end, ROWS):
        at = start + tl.arange(0, ROWS)
        valid = (at < end)[:, None] & (cols < channels)[None, :]
        values = tl.load(x + at.to(tl.int64)[:, None] * channels + cols[None, :], mask=valid, other=0.0).to(ACC)
        some = tl.minimum(end - start, ROWS).to(ACC)
        before = (start - begin).to(ACC)
        own = tl.sum(values, 0) / some
        apart = tl.where(valid, values - own[None, :], 0.0)
        between = own - mean
        mean += between * (some / (before + some))
        square += tl.sum(apart * apart, 0) + between * between * (before * some / (before + some))
    tl.store(means + part * channels + cols, mean, mask=cols < channels)
    tl.store(squares + part * channels + cols, square, mask=cols < channels)


@triton.jit  # type: ignore[untyped-decorator]
def statistics(  # type: ignore[no-untyped-def]
    means,
    squares,
    mean,
    variance,
    rows,
    channels,
    each,
    parts,
    PARTS: tl.constexpr,
    COLS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write mean and variance of all rows from those of the parts. mean, variance : (channels,)"""
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    part = tl.arange(0, PARTS)
    valid = (part < parts)[:, None] & (cols < channels)[None, :]
    where = part[:, None] * channels + cols[None, :]
    of_part = tl.load(means + where, mask=valid, other=0.0)
    count = tl.maximum(tl.minimum(rows - part * each, each), 0).to(ACC)[:, None]
    whole = tl.sum(of_part * count, 0) / rows
    apart = of_part - whole[None, :]
    square = tl.sum(tl.load(squares + where, mask=valid, other=0.0) + count * apart * apart, 0)
    tl.store(mean + cols, whole, mask=cols < channels)
    tl.store(variance + cols, square / rows, mask=cols < channels)


@triton.jit  # type: ignore[untyped-decorator]
def forward(  # type: ignore[no-untyped-def]
    x,
    y,
    chosen,
    scale,
    shift,
    rows,
    channels,
    height,
    width,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    POOL: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write max(0, x·scale + shift), and with POOL the largest of each 2x2 pixels and which of them it is.

    rows : of y; height, width : of x; chosen : int8, of y's shape, 4 where ReLU lets none of the pixels pass
    The first of equal ones is chosen, as torch does.
    """
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = cols < channels
    valid = (at < rows)[:, None] & inside[None, :]
    factor = _of_channels(scale, cols, channels)
    offset = _of_channels(shift, cols, channels)
    where = at.to(tl.int64)[:, None] * channels + cols[None, :]
    if POOL:
        first = _pixel(at.to(tl.int64), height, width)[:, None] * channels + cols[None, :]
        best = tl.load(x + first, mask=valid, other=0.0).to(ACC) * factor + offset
        number = tl.zeros((ROWS, COLS), tl.int8)
        for i in tl.static_range(1, 4):
            pixel = first + ((i // 2) * width + i % 2) * channels
            value = tl.load(x + pixel, mask=valid, other=0.0).to(ACC) * factor + offset
            larger = (value > best) | (value != value)  # NaN is passed on
            number = tl.where(larger, i, number).to(tl.int8)
            best = tl.where(larger, value, best)
        tl.store(chosen + where, tl.where(best <= 0, 4, number).to(tl.int8), mask=valid)
    else:
        best = tl.load(x + where, mask=valid, other=0.0).to(ACC) * factor + offset
    tl.store(y + where, tl.where(best <= 0, 0.0, best), mask=valid)


@triton.jit  # type: ignore[untyped-decorator]
def gradient_sums(  # type: ignore[no-untyped-def]
    grad,
    x,
    chosen,
    scale,
    shift,
    mean,
    inverse,
    sums,
    products,
    rows,
    channels,
    each,
    height,
    width,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    POOL: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write a part's sums of the gradient before ReLU, and of its products with the normalised values.

    rows : of grad; sums, products : (parts, channels); inverse : 1 / the standard deviation
    """
    part = tl.program_id(0)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = cols < channels
    centre = _of_channels(mean, cols, channels)
    spread = _of_channels(inverse, cols, channels)
    factor = _of_channels(scale, cols, channels)
    offset = _of_channels(shift, cols, channels)
    of_grad = tl.zeros((COLS,), ACC)
    of_product = tl.zeros((COLS,), ACC)
    begin = part * each
    end = tl.minimum(begin + each, rows)
    for start in range(begin, end, ROWS):
        at = (start + tl.arange(0, ROWS)).to(tl.int64)
        valid = (at < end)[:, None] & inside[None, :]
        where = at[:, None] * channels + cols[None, :]
        back = tl.load(grad + where, mask=valid, other=0.0).to(ACC)
        if POOL:
            number = tl.load(chosen + where, mask=valid, other=4).to(tl.int32)
            passed = valid & (number < 4)
            first = _pixel(at, height, width)[:, None] * channels + cols[None, :]
            pixel = first + ((number // 2) * width + number % 2) * channels
            value = tl.load(x + pixel, mask=passed, other=0.0).to(ACC)
        else:
            value = tl.load(x + where, mask=valid, other=0.0).to(ACC)
            passed = valid & ~(value * factor + offset <= 0)
        back = tl.where(passed, back, 0.0)
        of_grad += tl.sum(back, 0)
        of_product += tl.sum(tl.where(passed, back * (value - centre) * spread, 0.0), 0)
    tl.store(sums + part * channels + cols, of_grad, mask=inside)
    tl.store(products + part * channels + cols, of_product, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def backward(  # type: ignore[no-untyped-def]
    grad,
    x,
    chosen,
    scale,
    shift,
    mean,
    inverse,
    sums,
    products,
    back_x,
    biases,
    rows,
    channels,
    each,
    height,
    width,
    pixels,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    POOL: tl.constexpr,
    NORM: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write the gradient of x, and a part's sums of it, which together are the gradient of the convolution's bias.

    rows : of grad; pixels : rows of x; sums, products : (channels,), for NORM; biases : (parts, channels)
    """
    part = tl.program_id(0)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = cols < channels
    factor = _of_channels(scale, cols, channels)
    offset = _of_channels(shift, cols, channels)
    if NORM:
        centre = _of_channels(mean, cols, channels)
        spread = _of_channels(inverse, cols, channels)
        common = _of_channels(sums, cols, channels) / pixels
        slope = _of_channels(products, cols, channels) / pixels
    bias = tl.zeros((COLS,), ACC)
    begin = part * each
    end = tl.minimum(begin + each, rows)
    for start in range(begin, end, ROWS):
        at = (start + tl.arange(0, ROWS)).to(tl.int64)
        valid = (at < end)[:, None] & inside[None, :]
        where = at[:, None] * channels + cols[None, :]
        back = tl.load(grad + where, mask=valid, other=0.0).to(ACC)
        if POOL:
            number = tl.load(chosen + where, mask=valid, other=4).to(tl.int32)
            first = _pixel(at, height, width)[:, None] * channels + cols[None, :]
            for i in tl.static_range(0, 4):
                pixel = first + ((i // 2) * width + i % 2) * channels
                own = tl.where(number == i, back, 0.0)
                if NORM:
                    value = tl.load(x + pixel, mask=valid, other=0.0).to(ACC)
                    own = factor * (own - common - (value - centre) * spread * slope)
                bias += tl.sum(tl.where(valid, own, 0.0), 0)
                tl.store(back_x + pixel, own, mask=valid)
        else:
            value = tl.load(x + where, mask=valid, other=0.0).to(ACC)
            own = tl.where(value * factor + offset <= 0, 0.0, back)
            if NORM:
                own = factor * (own - common - (value - centre) * spread * slope)
            bias += tl.sum(tl.where(valid, own, 0.0), 0)
            tl.store(back_x + where, own, mask=valid)
    tl.store(biases + part * channels + cols, bias, mask=inside)
