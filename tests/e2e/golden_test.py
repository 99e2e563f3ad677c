"""Greedy tokens through real processes equal those of transformers: SmolLM2's on every layout, from
the GGUF file and from a Hugging Face directory with the same weights; Gemma 3 270M's from text.

All prompts are in flight at once, so that they are batched, chunked and interleaved.
"""

import concurrent.futures
import json
import os
import sys
import tempfile
import time

from harness import GOLDEN, Cluster, collect, pb, request, smollm2
from smollm2_directory import write_smollm2_directory

GGUF_LAYOUTS = [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 2)]
DIRECTORY_LAYOUTS = [(2, 2)]
GEMMA3_LAYOUTS = [(2, 1), (1, 2)]


def prompts_of(model):
    return json.loads((GOLDEN / model / "greedy.json").read_text())["prompts"]


def request_of(prompt):
    """A conversation goes as such, so that tokenizer and template are the server's."""
    message = request(prompt["text"], max_tokens=len(prompt["tokens"]), ignore_eos=True)
    message.parse_special_tokens = True
    if prompt.get("messages"):
        message.chat.messages.extend(pb.ChatMessage(**turn) for turn in prompt["messages"])
    return message


def check(model, layouts, prompts):
    for tensor, pipeline in layouts:
        begin = time.time()
        with Cluster(model, "--dtype", "float32", "--tensor-parallel-size", tensor,
                     "--pipeline-parallel-size", pipeline, "--max-model-len", 2048,
                     "--max-num-batched-tokens", 256) as cluster:
            with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
                answers = list(pool.map(
                    lambda prompt: collect(cluster.stub.GenerateStream(request_of(prompt))),
                    prompts))
            for prompt, (tokens, _, last) in zip(prompts, answers):
                assert tokens == prompt["tokens"], (tensor, pipeline, prompt["name"], tokens)
                assert last.usage.prompt_tokens == len(prompt["prompt_tokens"]), prompt["name"]
        print(f"TP={tensor} PP={pipeline}: {len(prompts)} prompts of "
              f"{len(prompts[0]['tokens'])} tokens equal, {time.time() - begin:.1f} s", flush=True)


def main():
    check(smollm2(), GGUF_LAYOUTS, prompts_of("smollm2"))
    with tempfile.TemporaryDirectory(prefix="shardline-smollm2.") as directory:
        begin = time.time()
        write_smollm2_directory(smollm2(), directory)
        print(f"as a Hugging Face directory ({time.time() - begin:.1f} s to write):", flush=True)
        check(directory, DIRECTORY_LAYOUTS, prompts_of("smollm2"))
    gemma3 = os.environ.get("SHARDLINE_GEMMA3_GGUF")
    if not gemma3:
        sys.exit("SHARDLINE_GEMMA3_GGUF must name the file that scripts/fetch_gemma3.sh fetches")
    print("Gemma 3 270M:", flush=True)
    check(gemma3, GEMMA3_LAYOUTS, prompts_of("gemma3"))


if __name__ == "__main__":
    sys.exit(main())
