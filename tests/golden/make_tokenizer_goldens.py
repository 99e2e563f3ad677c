#!/usr/bin/env python3
"""What Hugging Face's tokenizers library makes of the mixed text (tokenizers/mixed_text.py).

    pip install tokenizers sentencepiece
    python tests/golden/make_tokenizer_goldens.py            # writes tokenizers/
    python tests/golden/make_tokenizer_goldens.py --show smollm2 17   # ids and text of document 17

text.json.gz is the list of documents. NAME.golden.gz holds, for each document, four checksums
(crc32; of token ids as little-endian int32, of text as UTF-8):
  ids, special tokens in the text being text, none added;
  ids, special tokens in the text parsed, those of the post-processor added;
  decoding of the latter; the same without special tokens.
and for byte-level ones "scattered": the checksums of decoding sequences of arbitrary tokens.
"""
import argparse
import gzip
import json
import os
import struct
import sys
import zlib

import tokenizers
from tokenizers import Regex, Tokenizer, pre_tokenizers

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "tokenizers")
sys.path.insert(0, OUT)
import mixed_text  # noqa: E402

# Splits that GGUF files name; the byte-level vocabulary is SmolLM2's for all.
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama-bpe": CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + TAIL,
    "qwen2": CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + TAIL,
}


def crc_of_ids(ids):
    return zlib.crc32(struct.pack(f"<{len(ids)}i", *ids))


def crc_of_text(text):
    return zlib.crc32(text.encode())


def encode(tokenizer, text, special):
    tokenizer.encode_special_tokens = not special
    return tokenizer.encode(text, add_special_tokens=special).ids


def checksums(tokenizer, text):
    parsed = encode(tokenizer, text, True)
    return [crc_of_ids(encode(tokenizer, text, False)), crc_of_ids(parsed),
            crc_of_text(tokenizer.decode(parsed, skip_special_tokens=False)),
            crc_of_text(tokenizer.decode(parsed, skip_special_tokens=True))]


def scattered(tokenizer):
    """Tokens that do not belong together: characters are cut and begin anew."""
    size = tokenizer.get_vocab_size()
    return [crc_of_text(tokenizer.decode([(i * 2654435761 + n * 40503) % 2**32 % size for i in range(60)],
                                         skip_special_tokens=False)) for n in range(100)]


def write(path, value):
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    with open(os.path.join(OUT, path), "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(data)


def smollm2():
    with gzip.open(os.path.join(HERE, "smollm2", "tokenizer.json.gz"), "rt", encoding="utf-8") as file:
        return Tokenizer.from_str(file.read())


def with_split(regex):
    tokenizer = smollm2()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(regex), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return tokenizer


def all_tokenizers():
    """name -> (tokenizer, whether it is byte-level)"""
    table = {"smollm2": (smollm2(), True)}
    for name, regex in SPLITS.items():
        table[name] = (with_split(regex), True)
    return table


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--show", nargs=2, metavar=("NAME", "DOCUMENT"))
    args = parser.parse_args()
    documents = mixed_text.documents()
    if args.show:
        tokenizer, _ = all_tokenizers()[args.show[0]]
        text = documents[int(args.show[1])]
        for special in (False, True):
            ids = encode(tokenizer, text, special)
            print("special" if special else "plain", ids, [tokenizer.id_to_token(i) for i in ids])
        print(repr(text), repr(tokenizer.decode(ids, skip_special_tokens=False)), sep="\n")
        return
    write("text.json.gz", documents)
    for name, (tokenizer, byte_level) in all_tokenizers().items():
        golden = {"by": "tokenizers " + tokenizers.__version__,
                  "documents": [checksums(tokenizer, text) for text in documents]}
        if byte_level:
            golden["scattered"] = scattered(tokenizer)
        write(name + ".golden.gz", golden)
        print(name, tokenizer.get_vocab_size(), "tokens")


if __name__ == "__main__":
    main()
