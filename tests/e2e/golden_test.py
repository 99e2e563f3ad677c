"""Greedy tokens of SmolLM2 through real processes equal those of transformers, on every layout.

All prompts are in flight at once, so that they are batched, chunked and interleaved.
"""

import concurrent.futures
import json
import sys
import time

from harness import GOLDEN, Cluster, collect, request, smollm2

LAYOUTS = [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 2)]


def main():
    prompts = json.loads((GOLDEN / "smollm2" / "greedy.json").read_text())["prompts"]
    for tensor, pipeline in LAYOUTS:
        begin = time.time()
        with Cluster(smollm2(), "--dtype", "float32", "--tensor-parallel-size", tensor,
                     "--pipeline-parallel-size", pipeline, "--max-model-len", 2048,
                     "--max-num-batched-tokens", 256) as cluster:
            def run(prompt):
                message = request(prompt["text"], max_tokens=len(prompt["tokens"]),
                                  ignore_eos=True)
                message.parse_special_tokens = True
                return collect(cluster.stub.GenerateStream(message))

            with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
                answers = list(pool.map(run, prompts))
            for prompt, (tokens, _, last) in zip(prompts, answers):
                assert tokens == prompt["tokens"], (tensor, pipeline, prompt["name"], tokens)
                assert last.usage.prompt_tokens == len(prompt["prompt_tokens"]), prompt["name"]
        print(f"TP={tensor} PP={pipeline}: {len(prompts)} prompts of "
              f"{len(prompts[0]['tokens'])} tokens equal, {time.time() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
