"""Speed of OpenVINO GenAI on a GGUF file, in model_bench's terms; one JSON object a line.

    openvino_bench.py MODEL.gguf --tokenizer ANY.gguf --threads 2 --prompt 512 --decode 1:512,8:128
                      --generate 32 [--weights gguf|int8|int4] [--prepare]

Called by peers.py. Continuous batching (paged attention), and for one sequence also the pipeline
without it: the faster of the two counts. Products in bfloat16, all else as OpenVINO chooses, which
includes keys and values in int8. `--weights` other than gguf are made of MODEL, which must be of
float16, by NNCF as Optimum does it by default, once, beside the file.
"""
import argparse
import json
import os
import time

import numpy as np
import openvino as ov
import openvino_genai as genai


def properties(args):
    return {"INFERENCE_NUM_THREADS": args.threads, "INFERENCE_PRECISION_HINT": "bf16",
            "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}


def compressed(args, tokenizer):
    """The folder of an OpenVINO model with the weights that are asked for."""
    import nncf
    folder = f"{args.model}.openvino"
    whole = os.path.join(folder, "openvino_model.xml")
    if not os.path.exists(whole):
        os.makedirs(folder, exist_ok=True)
        link = os.path.join(folder, "model.gguf")
        if not os.path.lexists(link):
            os.symlink(os.path.abspath(args.model), link)
        genai.LLMPipeline(link, tokenizer, "CPU", enable_save_ov_model=True)
    out = os.path.join(folder, args.weights)
    if not os.path.exists(os.path.join(out, "openvino_model.xml")):
        modes = {"int8": {"mode": nncf.CompressWeightsMode.INT8_ASYM},
                 "int4": {"mode": nncf.CompressWeightsMode.INT4_ASYM, "group_size": 128,
                          "ratio": 1.0, "advanced_parameters": nncf.AdvancedCompressionParameters(
                              group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)}}
        model = nncf.compress_weights(ov.Core().read_model(whole), **modes[args.weights])
        os.makedirs(out, exist_ok=True)
        ov.save_model(model, os.path.join(out, "openvino_model.xml"))
    return out


def tokens_of(count, slot):
    return [(i * 7919 + slot * 31) % 32000 for i in range(count)]


def generation(count):
    config = genai.GenerationConfig()
    config.max_new_tokens = count
    config.ignore_eos = True
    config.do_sample = False
    return config


def run_batch(pipeline, batch, prompt, generate):
    """(seconds until the first token of all, tokens/s of the steps in which all decode)."""
    handles = [pipeline.add_request(slot, ov.Tensor(np.array([tokens_of(prompt, slot)], np.int64)),
                                    generation(generate + 1)) for slot in range(batch)]
    counts, begin, steps = [0] * batch, time.perf_counter(), []
    while pipeline.has_non_finished_requests():
        pipeline.step()
        for slot, handle in enumerate(handles):
            while handle.can_read():
                counts[slot] += sum(len(o.generated_ids) for o in handle.read().values())
        steps.append((time.perf_counter(), list(counts)))
    started = next(i for i, (_, counts) in enumerate(steps) if min(counts) > 0)
    ended = next(i for i, (_, counts) in enumerate(steps) if max(counts) > generate)
    (start, before), (end, after) = steps[started], steps[ended]
    return start - begin, (sum(after) - sum(before)) / (end - start) if end > start else 0


def run_single(pipeline, prompt, generate):
    """The same of one sequence, in the pipeline without continuous batching."""
    ids = np.array([tokens_of(prompt, 0)], np.int64)
    inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
    metrics = pipeline.generate(inputs, generation(generate + 1)).perf_metrics
    return metrics.get_ttft().mean / 1e3, 1e3 / metrics.get_tpot().mean


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--tokenizer", required=True, help="a GGUF file with one; it is not used")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", default="1:512", help="sequences:prompt,...")
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--weights", choices=("gguf", "int8", "int4"), default="gguf")
    parser.add_argument("--prepare", action="store_true", help="only make the weights")
    args = parser.parse_args()
    tokenizer = genai.Tokenizer(args.tokenizer)
    model = args.model if args.weights == "gguf" else compressed(args, tokenizer)
    if args.prepare:
        return
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 2
    scheduler.max_num_seqs = 256
    scheduler.max_num_batched_tokens = 4096
    scheduler.enable_prefix_caching = False
    sizes = [tuple(map(int, size.split(":"))) for size in args.decode.split(",")]

    paged = genai.ContinuousBatchingPipeline(model, tokenizer, scheduler, "CPU", **properties(args))
    run_batch(paged, 1, args.prompt, 4)
    prompt, decode = run_batch(paged, 1, args.prompt, 1)[0], {}
    for batch, length in sizes:
        decode[batch] = run_batch(paged, batch, length, args.generate)[1]
    del paged
    single = genai.LLMPipeline(model, tokenizer, "CPU", ATTENTION_BACKEND="SDPA",
                               **properties(args))
    run_single(single, args.prompt, 4)
    prompt = min(prompt, run_single(single, args.prompt, 1)[0])
    for batch, length in sizes:
        if batch == 1:
            decode[1] = max(decode[1], run_single(single, length, args.generate)[1])
    print(json.dumps({"program": f"OpenVINO GenAI {genai.__version__}"}))
    for batch, speed in decode.items():
        print(json.dumps({"test": "decode", "batch": batch, "tokens_per_s": speed}))
    print(json.dumps({"test": "prompt", "tokens": args.prompt,
                      "tokens_per_s": args.prompt / prompt}))


if __name__ == "__main__":
    main()
