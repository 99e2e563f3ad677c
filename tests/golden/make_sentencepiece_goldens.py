#!/usr/bin/env python3
"""What SentencePiece's own library makes of the mixed text (tokenizers/mixed_text.py).

    pip install sentencepiece protobuf gguf
    python tests/golden/make_sentencepiece_goldens.py --train      # small models, once
    python tests/golden/make_sentencepiece_goldens.py --llama ggml-vocab-llama-spm.gguf
    python tests/golden/make_sentencepiece_goldens.py              # goldens of the models that are there
    python tests/golden/make_sentencepiece_goldens.py --gguf MODEL.gguf NAME   # of a GGUF file's vocabulary

NAME.model.gz is a tokenizer.model; NAME.golden.gz holds, for each document, the checksums of its ids
and of the text that they decode to, without unknown tokens ("documents"), and checksums of decoding
arbitrary tokens ("scattered"; control and unknown pieces left out). Llama 2's vocabulary is the one
that llama.cpp's sources carry for tests.
"""
import argparse
import glob
import gzip
import io
import os
import sys

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "tokenizers")
sys.path[:0] = [HERE, OUT]
import mixed_text  # noqa: E402
from make_tokenizer_goldens import crc_of_ids, crc_of_text, write  # noqa: E402

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def path_of(name):
    return os.path.join(OUT, name + ".model.gz")


def save(name, proto):
    with open(path_of(name), "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(proto.SerializeToString())
    print(name, len(proto.pieces), "pieces", os.path.getsize(path_of(name)), "bytes")


def load(name):
    with gzip.open(path_of(name)) as file:
        return sentencepiece.SentencePieceProcessor(model_proto=file.read())


def train(**options):
    lines = [line for text in mixed_text.documents() for line in text.splitlines() if line and "\0" not in line]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, num_threads=1, minloglevel=2,
        max_sentence_length=100000, hard_vocab_limit=False, **options)
    proto = pb.ModelProto.FromString(model.getvalue())
    return proto


def train_all():
    # As Llama 2: identity normalisation, byte fallback, digits apart.
    llama = train(model_type="bpe", vocab_size=4000, character_coverage=0.98, byte_fallback=True, split_digits=True,
                  normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True)
    save("spm-bpe", llama)
    # As Gemma: no dummy prefix, pieces of white space and tags that a user defined.
    gemma = train(model_type="bpe", vocab_size=4000, character_coverage=0.98, byte_fallback=True, split_digits=True,
                  normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False,
                  allow_whitespace_only_pieces=True,
                  user_defined_symbols=["<mask>", "\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "\t", "<div", "()", "don", "é"])
    # Some pieces may come up on the way only.
    for piece in gemma.pieces[400:4000:7]:
        if piece.type == NORMAL and len(piece.piece) > 1:
            piece.type = UNUSED
    save("spm-bpe-gemma", gemma)
    # As T5: unigrams, nmt_nfkc, extra white space removed, no byte fallback.
    save("spm-unigram", train(model_type="unigram", vocab_size=3000, character_coverage=0.98))
    # What else the format has: prefix as suffix, case folding, byte fallback of unigrams.
    save("spm-unigram-suffix", train(model_type="unigram", vocab_size=2500, character_coverage=0.98, byte_fallback=True,
                                     treat_whitespace_as_suffix=True, normalization_rule_name="nfkc_cf",
                                     remove_extra_whitespaces=False, user_defined_symbols=["<sep>", "abc", "▁x"]))


def from_gguf(path):
    import gguf
    fields = gguf.GGUFReader(path).fields

    def value(key, otherwise=None):
        field = fields.get("tokenizer.ggml." + key)
        return otherwise if field is None else field.contents()

    proto = pb.ModelProto()
    for piece, score, kind in zip(value("tokens"), value("scores"), value("token_type")):
        # llama.cpp's converter takes the escapes out of user-defined pieces.
        proto.pieces.add(piece=piece.replace(" ", "▁") if kind == USER_DEFINED else piece, score=score, type=kind)
    proto.trainer_spec.model_type = 2 if value("model") == "llama" else 1
    proto.trainer_spec.byte_fallback = BYTE in value("token_type")
    kinds = value("token_type")
    proto.trainer_spec.unk_id = value("unknown_token_id", kinds.index(UNKNOWN) if UNKNOWN in kinds else 0)
    proto.trainer_spec.bos_id = value("bos_token_id", -1)
    proto.trainer_spec.eos_id = value("eos_token_id", -1)
    proto.trainer_spec.unk_piece = proto.pieces[proto.trainer_spec.unk_id].piece
    proto.pieces[proto.trainer_spec.unk_id].type = UNKNOWN
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = bool(value("add_space_prefix", True))
    proto.normalizer_spec.remove_extra_whitespaces = bool(value("remove_extra_whitespaces", False))
    return proto


def golden(processor, documents):
    unknown = processor.unk_id()
    size = processor.get_piece_size()
    rows = []
    for text in documents:
        ids = processor.encode(text)
        rows.append([crc_of_ids(ids), crc_of_text(processor.decode([i for i in ids if i != unknown]))])
    scattered = []
    for n in range(100):
        ids = [(i * 2654435761 + n * 40503) % 2**32 % size for i in range(60)]
        ids = [i for i in ids if not processor.is_control(i) and i != unknown]
        scattered.append(crc_of_text(processor.decode(ids)))
    return {"by": "sentencepiece " + sentencepiece.__version__, "documents": rows, "scattered": scattered}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--llama", metavar="GGUF")
    parser.add_argument("--gguf", nargs=2, metavar=("GGUF", "NAME"))
    parser.add_argument("--show", nargs=2, metavar=("NAME", "DOCUMENT"))
    args = parser.parse_args()
    documents = mixed_text.documents()
    if args.show:
        processor = load(args.show[0])
        text = documents[int(args.show[1])]
        ids = processor.encode(text)
        print(repr(text), ids, [processor.id_to_piece(i) for i in ids], repr(processor.decode(ids)), sep="\n")
        return
    if args.train:
        return train_all()
    if args.llama:
        return save("llama2", from_gguf(args.llama))
    if args.gguf:
        proto = from_gguf(args.gguf[0])
        processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        return write(args.gguf[1] + ".golden.gz", golden(processor, documents))
    for path in sorted(glob.glob(path_of("*"))):
        name = os.path.basename(path)[:-len(".model.gz")]
        write(name + ".golden.gz", golden(load(name), documents))
        print(name)


if __name__ == "__main__":
    main()
