#!/usr/bin/env python3
"""Writes a GGUF file of a Llama's shape with random weights, for benchmarks.

    pip install gguf numpy
    make_model.py OUT.gguf --shape tinyllama-1.1b --format q8_0

Layers hold the same numbers with their rows turned, so that no program keeps one copy of equal
matrices and is measured with weights that stay in a cache. The vocabulary knows bytes only, and is
filled up to the size.
"""
import argparse

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

# hidden, layers, heads, KV heads, feed-forward, vocabulary, whether the head is the embedding
SHAPES = {
    "tinyllama-1.1b": (2048, 22, 32, 4, 5632, 32000, False),
    "smollm2-135m": (576, 30, 9, 3, 1536, 49152, True),
}
FORMATS = {"bf16": T.BF16, "f16": T.F16, "q8_0": T.Q8_0, "q4_0": T.Q4_0, "q4_1": T.Q4_1}
FILE_TYPES = {"bf16": gguf.LlamaFileType.MOSTLY_BF16, "f16": gguf.LlamaFileType.MOSTLY_F16,
              "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
              "q4_1": gguf.LlamaFileType.MOSTLY_Q4_1}


def byte_letters():
    """The letter that stands for each byte in a byte-level vocabulary: printable Latin-1 for itself,
    the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama-1.1b")
    parser.add_argument("--format", choices=FORMATS, default="q8_0")
    args = parser.parse_args()
    hidden, layers, heads, kv_heads, feed_forward, vocabulary, tied = SHAPES[args.shape]
    kv = hidden // heads * kv_heads
    kind = FORMATS[args.format]
    random = np.random.default_rng(1)

    writer = gguf.GGUFWriter(args.out, "llama")
    writer.add_name(args.shape)
    writer.add_context_length(4096)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(FILE_TYPES[args.format])
    letters = byte_letters()
    letters.append(letters[0] * 2)  # a merge there must be
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(letters + [f"<{i}>" for i in range(len(letters), vocabulary)])
    writer.add_token_types([gguf.TokenType.NORMAL] * vocabulary)
    writer.add_token_merges([f"{letters[0]} {letters[0]}"])
    writer.add_bos_token_id(vocabulary - 2)
    writer.add_eos_token_id(vocabulary - 1)

    def matrix(rows, cols):
        values = random.standard_normal((rows, cols), np.float32) / np.float32(cols ** 0.5)
        return gguf.quants.quantize(values, kind)

    def add(name, data):
        quantized = data.dtype != np.float32
        writer.add_tensor(name, data, raw_dtype=kind if quantized else None)

    ones = np.ones(hidden, np.float32)
    layer = {
        "attn_norm": ones, "ffn_norm": ones,
        "attn_q": matrix(hidden, hidden), "attn_k": matrix(kv, hidden),
        "attn_v": matrix(kv, hidden), "attn_output": matrix(hidden, hidden),
        "ffn_gate": matrix(feed_forward, hidden), "ffn_up": matrix(feed_forward, hidden),
        "ffn_down": matrix(hidden, feed_forward),
    }
    embedding = matrix(vocabulary, hidden)
    add("token_embd.weight", embedding)
    for i in range(layers):
        for name, data in layer.items():
            add(f"blk.{i}.{name}.weight", np.roll(data, i, axis=0))
    add("output_norm.weight", ones)
    if not tied:
        add("output.weight", embedding)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
