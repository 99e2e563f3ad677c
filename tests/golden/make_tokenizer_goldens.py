#!/usr/bin/env python3
"""What Hugging Face's tokenizers library makes of the mixed text (tokenizers/mixed_text.py).

    pip install tokenizers sentencepiece
    python tests/golden/make_tokenizer_goldens.py --bases    # tokenizer.json of the small SentencePiece models, once
    python tests/golden/make_tokenizer_goldens.py            # writes tokenizers/
    python tests/golden/make_tokenizer_goldens.py --show smollm2 17   # ids and text of document 17

pipelines.json has, for each family, what its tokenizer.json says beside the vocabulary, as a merge
patch (RFC 7386) to one of three vocabularies: SmolLM2's, and those of the small SentencePiece models
(make_sentencepiece_goldens.py) written as tokenizer.json with transformers' own list of merges.

text.json.gz is the list of documents. NAME.golden.gz holds, for each document, four checksums
(crc32; of token ids as little-endian int32, of text as UTF-8):
  ids, special tokens in the text being text, none added;
  ids, special tokens in the text parsed, those of the post-processor added;
  decoding of the latter; the same without special tokens.
and for byte-level ones "scattered": the checksums of decoding sequences of arbitrary tokens.
"""
import argparse
import base64
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


def checksums(tokenizer, plain, text):
    parsed = encode(tokenizer, text, True)
    return [crc_of_ids(encode(plain, text, False)), crc_of_ids(parsed),
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


def read_json(*path):
    with gzip.open(os.path.join(HERE, *path), "rt", encoding="utf-8") as file:
        return json.load(file)


def merge_patch(target, patch):
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        target[key] = merge_patch(target.get(key), value)
    return target


def pipelines():
    bases = {"smollm2": read_json("smollm2", "tokenizer.json.gz")}
    with open(os.path.join(OUT, "pipelines.json"), encoding="utf-8") as file:
        table = json.load(file)
    for name, entry in table.items():
        base = entry["base"]
        if base not in bases:
            bases[base] = read_json("tokenizers", base + ".json.gz")
        yield name, merge_patch(bases[base], entry["patch"])


def write_bases():
    """tokenizer.json of the small SentencePiece models; in it, what pipelines.json does not replace."""
    from sentencepiece import sentencepiece_model_pb2
    from transformers.convert_slow_tokenizer import generate_merges
    for name in ("spm-bpe", "spm-unigram"):
        with gzip.open(os.path.join(OUT, name + ".model.gz")) as file:
            proto = sentencepiece_model_pb2.ModelProto.FromString(file.read())
        vocab = [(piece.piece, piece.score) for piece in proto.pieces]
        root = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None,
                "decoder": None}
        if proto.trainer_spec.model_type == 2:
            ids = {piece: i for i, (piece, _) in enumerate(vocab)}
            root["model"] = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": ids,
                             "merges": generate_merges(ids, dict(vocab))}
        else:
            charsmap = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
            root["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap}
            root["model"] = {"type": "Unigram", "unk_id": proto.trainer_spec.unk_id, "vocab": vocab}
        write(name + ".json.gz", root)


def without_special_pieces(root):
    """Text never spells a special token of ours; the library's Unigram model finds those that are pieces, too."""
    special = {token["content"] for token in root["added_tokens"] if token["special"]}
    if root["model"]["type"] != "Unigram":
        return root
    vocab = [[f"\U0010f000{i}" if piece in special else piece, score] for i, (piece, score) in enumerate(root["model"]["vocab"])]
    added = [token for token in root["added_tokens"] if not token["special"]]
    return {**root, "post_processor": None, "added_tokens": added, "model": {**root["model"], "vocab": vocab}}


def all_tokenizers():
    """name -> (tokenizer, the same for text that spells special tokens, whether it is byte-level)"""
    table = {"smollm2": (smollm2(), smollm2(), True)}
    for name, root in pipelines():
        byte_level = "ByteLevel" in json.dumps(root["decoder"])
        plain = Tokenizer.from_str(json.dumps(without_special_pieces(root)))
        table["json-" + name] = (Tokenizer.from_str(json.dumps(root)), plain, byte_level)
    for name, regex in SPLITS.items():
        table[name] = (with_split(regex), with_split(regex), True)
    return table


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--show", nargs=2, metavar=("NAME", "DOCUMENT"))
    parser.add_argument("--bases", action="store_true")
    args = parser.parse_args()
    if args.bases:
        return write_bases()
    documents = mixed_text.documents()
    if args.show:
        tokenizer, _, _ = all_tokenizers()[args.show[0]]
        text = documents[int(args.show[1])]
        for special in (False, True):
            ids = encode(tokenizer, text, special)
            print("special" if special else "plain", ids, [tokenizer.id_to_token(i) for i in ids])
        print(repr(text), repr(tokenizer.decode(ids, skip_special_tokens=False)), sep="\n")
        return
    write("text.json.gz", documents)
    for name, (tokenizer, plain, byte_level) in all_tokenizers().items():
        golden = {"by": "tokenizers " + tokenizers.__version__,
                  "documents": [checksums(tokenizer, plain, text) for text in documents]}
        if byte_level:
            golden["scattered"] = scattered(tokenizer)
        write(name + ".golden.gz", golden)
        print(name, tokenizer.get_vocab_size(), "tokens")


if __name__ == "__main__":
    main()
