"""Greedy tokens of SmolLM2 through real processes equal those of transformers, on every layout, from
the GGUF file and from a Hugging Face directory with the same weights.

All prompts are in flight at once, so that they are batched, chunked and interleaved.
"""

import concurrent.futures
import json
import sys
import tempfile
import time

from harness import GOLDEN, Cluster, collect, pb, request, smollm2
from smollm2_directory import write_smollm2_directory

GGUF_LAYOUTS = [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 2)]
DIRECTORY_LAYOUTS = [(2, 2)]
PROMPTS = json.loads((GOLDEN / "smollm2" / "greedy.json").read_text())["prompts"]


def request_of(prompt):
    """A conversation goes as such, so that tokenizer and template are the server's."""
    message = request(prompt["text"], max_tokens=len(prompt["tokens"]), ignore_eos=True)
    message.parse_special_tokens = True
    if prompt["messages"]:
        message.chat.messages.extend(pb.ChatMessage(**turn) for turn in prompt["messages"])
    return message


def check(model, layouts):
    for tensor, pipeline in layouts:
        begin = time.time()
        with Cluster(model, "--dtype", "float32", "--tensor-parallel-size", tensor,
                     "--pipeline-parallel-size", pipeline, "--max-model-len", 2048,
                     "--max-num-batched-tokens", 256) as cluster:
            with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
                answers = list(pool.map(
                    lambda prompt: collect(cluster.stub.GenerateStream(request_of(prompt))),
                    PROMPTS))
            for prompt, (tokens, _, last) in zip(PROMPTS, answers):
                assert tokens == prompt["tokens"], (tensor, pipeline, prompt["name"], tokens)
                assert last.usage.prompt_tokens == len(prompt["prompt_tokens"]), prompt["name"]
        print(f"TP={tensor} PP={pipeline}: {len(PROMPTS)} prompts of "
              f"{len(PROMPTS[0]['tokens'])} tokens equal, {time.time() - begin:.1f} s", flush=True)


def main():
    check(smollm2(), GGUF_LAYOUTS)
    with tempfile.TemporaryDirectory(prefix="shardline-smollm2.") as directory:
        begin = time.time()
        write_smollm2_directory(smollm2(), directory)
        print(f"as a Hugging Face directory ({time.time() - begin:.1f} s to write):", flush=True)
        check(directory, DIRECTORY_LAYOUTS)


if __name__ == "__main__":
    sys.exit(main())
