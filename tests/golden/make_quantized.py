#!/usr/bin/env python3
"""Blocks of every weight format and what they expand to, by the `gguf` package.

    pip install gguf numpy
    python tests/golden/make_quantized.py

Writes quantized/FORMAT.blocks (as in a GGUF file) and quantized/FORMAT.f32 (little-endian). The
blocks are random bits, so that every field takes every value, but for the half-precision scales,
which are finite; some are negative, zero or subnormal.

Writes quantized/FORMAT.source and quantized/FORMAT.rounded for the formats that weights are rounded
to: normally distributed numbers of several sizes, and the blocks that gguf makes of them.
"""
import os

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

# Format: blocks, offsets of half-precision scales in a block.
FORMATS = {
    T.Q8_0: (8, [0]),
    T.Q4_0: (8, [0]),
    T.Q4_1: (8, [0, 2]),
    T.Q5_0: (8, [0]),
    T.Q5_1: (8, [0, 2]),
    T.Q4_K: (3, [0, 2]),
    T.Q5_K: (3, [0, 2]),
    T.Q6_K: (3, [208]),
}
SCALES = np.array([0.0123, -0.5, 0.0, 6e-8, 3.1e-5, 1.75, -7e-4, 40.0], np.float16)


def write(name, blocks, values):
    folder = os.path.join(os.path.dirname(__file__), "quantized")
    os.makedirs(folder, exist_ok=True)
    blocks.tofile(os.path.join(folder, name + ".blocks"))
    values.astype("<f4").tofile(os.path.join(folder, name + ".f32"))
    print(f"{name}: {blocks.nbytes} bytes, {values.size} values")


def main():
    random = np.random.default_rng(1)
    for kind, (count, offsets) in FORMATS.items():
        _, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
        for i, offset in enumerate(offsets):
            scales = SCALES[(np.arange(count) * 3 + i) % len(SCALES)]
            blocks[:, offset:offset + 2] = scales.view(np.uint8).reshape(count, 2)
        write(kind.name.lower(), blocks, gguf.quants.dequantize(blocks, kind))

    halves = (np.arange(512) * 128 + np.arange(512) % 128).astype(np.uint16)
    finite = halves[np.isfinite(halves.view(np.float16))]
    write("float16", finite, gguf.quants.dequantize(finite.view(np.float16), T.F16))
    with np.errstate(invalid="ignore"):
        wide = gguf.quants.dequantize(halves.view(np.uint8), T.BF16)
    keep = np.isfinite(wide)
    write("bfloat16", halves[keep], wide[keep])

    for kind in (T.Q8_0, T.Q4_1):
        sizes = np.repeat([1.0, 0.02, 3e-4, 500.0, 0.0, 1e-7, 0.5, 30.0], 32)
        values = (random.standard_normal(256) * sizes + 0.0).astype("<f4")  # without -0
        folder = os.path.join(os.path.dirname(__file__), "quantized")
        values.tofile(os.path.join(folder, kind.name.lower() + ".source"))
        gguf.quants.quantize(values, kind).tofile(
            os.path.join(folder, kind.name.lower() + ".rounded"))


if __name__ == "__main__":
    main()
