"""Speed of vLLM on the CPU, with random weights, in model_bench's terms; one JSON object a line.

    vllm_bench.py FOLDER --prompt 512 --decode 1:512,8:128 --generate 32

Called by peers.py, which sets the environment that vLLM's guide for CPUs recommends. FOLDER holds a
config.json. The engine runs in this process: with few CPUs a process for the scheduler costs more
than it hides.
"""
import argparse
import json
import time

import vllm


def run_batch(engine, batch, prompt, generate):
    """(seconds until the first token of all, tokens/s of the steps in which all decode)."""
    sampling = vllm.SamplingParams(max_tokens=generate + 1, temperature=0, ignore_eos=True,
                                   detokenize=False)
    for slot in range(batch):
        tokens = [(i * 7919 + slot * 31) % 32000 for i in range(prompt)]
        engine.add_request(str(slot), {"prompt_token_ids": tokens}, sampling)
    counts, begin, steps = {str(slot): 0 for slot in range(batch)}, time.perf_counter(), []
    while engine.has_unfinished_requests():
        for output in engine.step():
            counts[output.request_id] = len(output.outputs[0].token_ids)
        steps.append((time.perf_counter(), list(counts.values())))
    started = next(i for i, (_, counts) in enumerate(steps) if min(counts) > 0)
    ended = next(i for i, (_, counts) in enumerate(steps) if max(counts) > generate)
    (start, before), (end, after) = steps[started], steps[ended]
    return start - begin, (sum(after) - sum(before)) / (end - start) if end > start else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", default="1:512", help="sequences:prompt,...")
    parser.add_argument("--generate", type=int, default=32)
    args = parser.parse_args()
    sizes = [tuple(map(int, size.split(":"))) for size in args.decode.split(",")]
    longest = max([args.prompt] + [prompt for _, prompt in sizes]) + args.generate + 1
    engine = vllm.LLM(model=args.model, load_format="dummy", dtype="bfloat16",
                      skip_tokenizer_init=True, max_model_len=longest, max_num_batched_tokens=4096,
                      max_num_seqs=max(batch for batch, _ in sizes),
                      enable_prefix_caching=False).llm_engine
    run_batch(engine, 1, args.prompt, 4)
    prompt = run_batch(engine, 1, args.prompt, 1)[0]
    print(json.dumps({"program": f"vLLM {vllm.__version__}"}))
    for batch, length in sizes:
        run_batch(engine, batch, length, 2)
        speed = run_batch(engine, batch, length, args.generate)[1]
        print(json.dumps({"test": "decode", "batch": batch, "tokens_per_s": speed}))
    print(json.dumps({"test": "prompt", "tokens": args.prompt,
                      "tokens_per_s": args.prompt / prompt}))


if __name__ == "__main__":
    main()
