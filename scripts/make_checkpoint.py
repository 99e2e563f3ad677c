#!/usr/bin/env python3
"""A checkpoint of random weights at a published model's true shape: for tests of shape, memory and
speed where the real weights cannot be had. Needs numpy only.

    scripts/make_checkpoint.py --like yi-34b --layers 4 --seed 1 OUT
    scripts/make_checkpoint.py --list

OUT gets config.json, model-*.safetensors with their index, and a byte-level tokenizer that takes any
text. The same arguments give the same bytes. Values have the spread that training starts from: a
matrix keeps the size of what it is multiplied with, norms are near 1. They come from one pool of
random numbers, read from a random place for each tensor, so that writing is as fast as the disk.
"""
import argparse
import json
import os
import sys
import time

try:
    import numpy
except ImportError:
    sys.exit("make_checkpoint: numpy is missing: pip install numpy")

import checkpoint_shapes

DTYPES = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("F32", 4)}
POOL = 1 << 22  # values
CHUNK = 16 << 20  # bytes a write


class RandomValues:
    """Normal values as bytes of a dtype."""

    def __init__(self, dtype, seed):
        self.dtype = dtype
        self.rng = numpy.random.default_rng(seed)
        self.normal = self.rng.standard_normal(POOL, dtype=numpy.float32)
        self.pools = {}

    def pool(self, centre, scale):
        """The pool's bytes, twice over, so that a read from anywhere in the first half is whole."""
        if (centre, scale) not in self.pools:
            values = centre + numpy.float32(scale) * self.normal
            if self.dtype == "bfloat16":
                bits = values.view(numpy.uint32)
                values = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(numpy.uint16)  # to nearest even
            elif self.dtype == "float16":
                values = values.astype(numpy.float16)
            self.pools[centre, scale] = memoryview(numpy.concatenate([values, values]).tobytes())
        return self.pools[centre, scale]

    def chunks(self, name, shape):
        size = DTYPES[self.dtype][1]
        if len(shape) == 1:
            bias = name.endswith(".bias")
            pool = self.pool(0.0 if bias else 1.0, 0.02)
        else:
            pool = self.pool(0.0, 0.02 if "embed" in name or "wte" in name or "wpe" in name else shape[-1] ** -0.5)
        left = int(numpy.prod(shape)) * size
        while left > 0:
            begin = int(self.rng.integers(POOL)) * size
            count = min(left, CHUNK, POOL * size)
            yield pool[begin:begin + count]
            left -= count


def header_of(entries, dtype):
    """safetensors: the header's length, the header, then the tensors one after another."""
    header = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in entries:
        end = offset + int(numpy.prod(shape)) * DTYPES[dtype][1]
        header[name] = {"dtype": DTYPES[dtype][0], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def shards_of(entries, dtype, limit):
    shards, used = [[]], 0
    for name, shape in entries:
        size = int(numpy.prod(shape)) * DTYPES[dtype][1]
        if shards[-1] and used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append((name, shape))
        used += size
    return shards


def byte_spellings():
    """GPT-2's spelling of bytes as printable characters."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def write_tokenizer(out, config):
    end = "<|endoftext|>"
    eos = config["eos_token_id"]
    free = [i for i in range(257) if i != eos]
    vocab = {spelling: free[b] for b, spelling in sorted(byte_spellings().items())}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [{"id": eos, "content": end, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []}}
    if eos >= 257:  # a vocabulary may not be sparse: fill up to the end token
        for i in range(256, eos):
            vocab[f"<unused{i}>"] = i
    write_json(os.path.join(out, "tokenizer.json"), tokenizer)
    write_json(os.path.join(out, "tokenizer_config.json"),
               {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "clean_up_tokenization_spaces": False})


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)


def write_weights(out, entries, args):
    shards = shards_of(entries, args.dtype, int(args.max_shard_gb * 1e9))
    values = RandomValues(args.dtype, args.seed)
    total = sum(int(numpy.prod(shape)) for _, shape in entries) * DTYPES[args.dtype][1]
    done, begin, said = 0, time.monotonic(), 0.0
    weight_map = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        with open(os.path.join(out, name), "wb") as file:
            file.write(header_of(shard, args.dtype))
            weight_map.update((tensor, name) for tensor, _ in shard)
            if args.sparse:
                bytes_of_shard = sum(int(numpy.prod(shape)) for _, shape in shard) * DTYPES[args.dtype][1]
                file.truncate(file.tell() + bytes_of_shard)
                done += bytes_of_shard
                continue
            for tensor, shape in shard:
                for chunk in values.chunks(tensor, shape):
                    file.write(chunk)
                    done += len(chunk)
                    if time.monotonic() - said > 1:
                        said = time.monotonic()
                        print(f"\r{done / 1e9:.1f} of {total / 1e9:.1f} GB", end="", file=sys.stderr)
    write_json(os.path.join(out, "model.safetensors.index.json"),
               {"metadata": {"total_size": total}, "weight_map": weight_map})
    seconds = time.monotonic() - begin
    print(f"\r{len(entries)} tensors, {total / 1e9:.2f} GB in {len(shards)} files, {seconds:.1f} s, "
          f"{total / 1e9 / seconds:.2f} GB/s", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", metavar="OUT", help="a directory that does not exist yet, or is empty")
    parser.add_argument("--like", choices=sorted(checkpoint_shapes.MODELS), metavar="MODEL", help="see --list")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has, or more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--max-shard-gb", type=float, default=5.0, metavar="GB")
    parser.add_argument("--sparse", action="store_true",
                        help="all weights 0 in files with holes, which take no disk: for tests of shapes only")
    parser.add_argument("--config-only", action="store_true", help="config.json and nothing else")
    parser.add_argument("--list", action="store_true", help="the models, with their full sizes, and exit")
    args = parser.parse_args()
    if args.list:
        for name, config in checkpoint_shapes.MODELS.items():
            count = sum(int(numpy.prod(shape)) for _, shape in checkpoint_shapes.tensors(config))
            print(f"{name:20} {config.get('num_hidden_layers', config.get('n_layer')):3} layers, "
                  f"{count / 1e9:6.2f} G parameters")
        return
    if not args.out or not args.like:
        parser.error("OUT and --like are needed")
    if args.layers is not None and args.layers < 1 or args.max_shard_gb <= 0:
        parser.error("--layers and --max-shard-gb must be positive")
    os.makedirs(args.out, exist_ok=True)
    if os.listdir(args.out):
        parser.error(f"{args.out} is not empty")
    config = checkpoint_shapes.with_layers(checkpoint_shapes.MODELS[args.like], args.layers)
    write_json(os.path.join(args.out, "config.json"), {**config, "torch_dtype": args.dtype})
    if args.config_only:
        return
    write_tokenizer(args.out, config)
    write_weights(args.out, list(checkpoint_shapes.tensors(config)), args)


if __name__ == "__main__":
    main()
