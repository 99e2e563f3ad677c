"""Perplexity of a real text by weight format, through the whole cluster (prompt_logprobs).

    SHARDLINE_BIN=build/cpu/bin python3 tests/e2e/perplexity.py [MODEL] [--tokens 16384]
        [--window 1024] [--text FILE] [--variants "FLAGS;FLAGS;..."]

Without MODEL: SmolLM2 as a directory in float32, made of the file that SHARDLINE_SMOLLM2_GGUF names.
Its weights lie on the grid of 4 bits that the file has, where `int4` would find them again; so they
are changed to weights of the same function that lie on none (smollm2_directory.rescale). The text is
the language reference that ships with this Python, unless --text names another. Each window is
scored on its own: its first token is context only. Not a test: run by hand.
"""
import argparse
import hashlib
import math
import platform
import pydoc_data.topics
import tempfile

from harness import Cluster, pb, request, smollm2
from smollm2_directory import write_smollm2_directory

VARIANTS = ("--dtype float32 --compute-dtype float32 --kv-cache-dtype float32;"
            "--dtype bfloat16;--dtype bfloat16 --kv-cache-dtype int8;"
            "--quantization int8;--quantization int4;"
            "--dtype bfloat16 --compute-dtype auto;--quantization int8 --compute-dtype auto;"
            "--quantization int4 --compute-dtype auto")


def text_of(path):
    """(text, what it is)."""
    if path:
        with open(path, encoding="utf-8") as file:
            return file.read(), path
    topics = pydoc_data.topics.topics
    return ("\n\n".join(topics[name] for name in sorted(topics)),
            f"language reference of Python {platform.python_version()} (pydoc_data/topics.py)")


def surprises(model, flags, text, tokens, window):
    """Minus the log-probability of each token but the first of each window, and the tokens."""
    with Cluster(model, "--max-model-len", window + 16, "--kv-cache-memory", 256 << 20,
                 *flags) as cluster:
        ids = list(cluster.stub.Tokenize(pb.TokenizeRequest(text=text)).token_ids)[:tokens]
        found = []
        for begin in range(0, len(ids) - 1, window):
            part = ids[begin:begin + window]
            if len(part) < 2:
                break
            answer = cluster.stub.Generate(request(part, max_tokens=1, prompt_logprobs=0))
            scored = [position.token for position in answer.prompt_logprobs]
            assert [token.token_id for token in scored] == part[1:]
            found += [-token.logprob for token in scored]
    return found, ids


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--text")
    parser.add_argument("--variants", default=VARIANTS, help="flags of `up`, between semicolons")
    args = parser.parse_args()
    text, source = text_of(args.text)
    with tempfile.TemporaryDirectory(prefix="shardline-perplexity.") as directory:
        if args.model is None:
            write_smollm2_directory(smollm2(), directory, off_grid=True)
        print(f"{args.model or 'SmolLM2-135M-Instruct, rescaled'}; {source}, SHA-256 "
              f"{hashlib.sha256(text.encode()).hexdigest()[:16]}")
        base = None
        for variant in args.variants.split(";"):
            found, ids = surprises(args.model or directory, variant.split(), text, args.tokens,
                                   args.window)
            if base is None:
                base = found
                print(f"{len(ids)} tokens in windows of {args.window}, {len(found)} scored\n")
                print("| flags | perplexity | to the first | mean change of a log-probability |")
                print("|---|---|---|---|")
            perplexity = math.exp(sum(found) / len(found))
            ratio = perplexity / math.exp(sum(base) / len(base)) - 1
            change = sum(abs(a - b) for a, b in zip(found, base)) / len(base)
            print(f"| `{variant}` | {perplexity:.4f} | {ratio:+.2%} | {change:.4f} |", flush=True)


if __name__ == "__main__":
    main()
