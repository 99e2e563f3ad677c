"""Runs model_bench and other programs' benchmarks in turns; prints medians and ratios as a table.

Called by scripts/bench_peers.sh, which builds what it needs.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys

import make_model

HERE = os.path.dirname(os.path.abspath(__file__))
PROMPT = 512
GENERATE = 32
# Sequences decoded at once, and the prompt before each.
BATCHES = {1: 512, 8: 128, 32: 128}
# The weights of openvino_bench.py that are set beside a format.
OPENVINO_WEIGHTS = {"bf16": "gguf", "f16": "gguf", "q8_0": "int8", "q4_0": "int4", "q4_1": "int4"}


def lines_of(command, env=None):
    """JSON objects that a program prints, one a line; other lines are dropped."""
    done = subprocess.run(command, capture_output=True, text=True,
                          env={**os.environ, **(env or {})})
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def run_ours(args, shape, form):
    """Tokens per second by (test, batch), and the machine's description."""
    result = {}
    model = checkpoint(args, shape, form)
    for prompt in sorted(set(BATCHES.values())):
        batches = [str(b) for b, p in BATCHES.items() if p == prompt]
        for line in lines_of([args.bench, model, "--threads", str(args.threads), "--prompt",
                              str(prompt), "--generate", str(GENERATE), "--batch",
                              ",".join(batches), "--repeats", "1"]):
            if line.get("test") == "decode":
                result["decode", line["batch"]] = line["tokens_per_s"]
                result["of_read", line["batch"]] = line["of_read"]
            elif line.get("test") == "prompt" and prompt == PROMPT:
                result["prompt", PROMPT] = line["tokens_per_s"]
            elif "device" in line:
                result["machine"] = line
    return result


def run_llama(args, shape, form):
    """The same of llama.cpp, in its default settings but for the threads."""
    result = {}
    model = checkpoint(args, shape, form)
    binaries = os.path.join(args.cache, "llama-build", "bin")
    bench = [os.path.join(binaries, "llama-bench"), "-m", model, "-t", str(args.threads), "-r", "1",
             "-o", "jsonl"]
    for line in lines_of(bench + ["-p", str(PROMPT), "-n", "0"]):
        result["prompt", PROMPT] = line["avg_ts"]
    for line in lines_of(bench + ["-p", "0", "-n", str(GENERATE), "-d", str(BATCHES[1])]):
        result["decode", 1] = line["avg_ts"]
    for batch, prompt in BATCHES.items():
        if batch == 1:
            continue
        for line in lines_of([os.path.join(binaries, "llama-batched-bench"), "-m", model, "-t",
                              str(args.threads), "-c", str(batch * (prompt + GENERATE + 16)),
                              "-npp", str(prompt), "-ntg", str(GENERATE), "-npl", str(batch),
                              "--output-format", "jsonl"]):
            result["decode", batch] = line["speed_tg"]
    return result


def run_script(args, program, script, model, flags=(), env=None):
    """The same of a program that one of the scripts beside this one drives, in its own Python."""
    python = os.path.join(args.cache, program, "bin", "python")
    sizes = ",".join(f"{batch}:{prompt}" for batch, prompt in BATCHES.items())
    result = {}
    for line in lines_of([python, os.path.join(HERE, script), model, "--prompt", str(PROMPT),
                          "--decode", sizes, "--generate", str(GENERATE), *flags], env):
        if "program" in line:
            result["program"] = line["program"]
        elif line["test"] == "decode":
            result["decode", line["batch"]] = line["tokens_per_s"]
        else:
            result["prompt", line["tokens"]] = line["tokens_per_s"]
    return result


def run_openvino(args, shape, form, *flags):
    """OpenVINO reads no bfloat16 from GGUF: it gets as many bits as float16, and computes in
    bfloat16. Formats of 8 and 4 bits are those that its own tool makes."""
    return run_script(args, "openvino", "openvino_bench.py", checkpoint(args, shape, "f16"),
                      ["--threads", str(args.threads), "--tokenizer", args.tokenizer, "--weights",
                       OPENVINO_WEIGHTS[form], *flags])


def run_vllm(args, shape, form):
    """In the environment that vLLM's guide for CPUs recommends."""
    if form != "bf16":
        return None
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))[:args.threads]))
    env = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "2",
           "VLLM_CPU_OMP_THREADS_BIND": cpus, "OMP_NUM_THREADS": str(args.threads),
           "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    libraries = ["vllm/lib/libiomp5.so",
                 "tcmalloc/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"]
    env["LD_PRELOAD"] = ":".join(path for name in libraries
                                 if os.path.exists(path := os.path.join(args.cache, name)))
    return run_script(args, "vllm", "vllm_bench.py", configuration(args, shape), env=env)


PEERS = {"llama.cpp": run_llama, "openvino": run_openvino, "vllm": run_vllm}


def configuration(args, shape):
    """A folder with a shape's config.json, for programs that make random weights themselves."""
    hidden, layers, heads, kv_heads, feed_forward, vocabulary, tied = make_model.SHAPES[shape]
    folder = os.path.join(args.cache, f"{shape}.config")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
                   "hidden_size": hidden, "num_hidden_layers": layers,
                   "num_attention_heads": heads, "num_key_value_heads": kv_heads,
                   "intermediate_size": feed_forward, "vocab_size": vocabulary,
                   "tie_word_embeddings": tied, "max_position_embeddings": 4096,
                   "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
                   "dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}, file)
    return folder


def checkpoint(args, shape, form):
    path = os.path.join(args.cache, f"{shape}.{form}.gguf")
    if not os.path.exists(path):
        subprocess.run([sys.executable, make_model.__file__, path + ".part", "--shape", shape,
                        "--format", form], check=True)
        os.rename(path + ".part", path)
    return path


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", required=True)
    parser.add_argument("--bench", required=True)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--formats", default="bf16,q8_0,q4_0,q4_1")
    parser.add_argument("--shapes", default="tinyllama-1.1b,smollm2-135m")
    parser.add_argument("--peers", default="llama.cpp,openvino", help=", ".join(PEERS))
    parser.add_argument("--tokenizer", help="a GGUF file that has one, which OpenVINO asks for")
    parser.add_argument("--json", help="all numbers go here too")
    parser.add_argument("--prepare", action="store_true", help="only make the checkpoints")
    args = parser.parse_args()

    peers = args.peers.split(",")
    cases = [(shape, form) for shape in args.shapes.split(",") for form in args.formats.split(",")]
    for shape, form in cases:
        checkpoint(args, shape, form)
        if "openvino" in peers:
            run_openvino(args, shape, form, "--prepare")
    if args.prepare:
        return
    keys = [("prompt", PROMPT)] + [("decode", batch) for batch in BATCHES]
    everything = []
    print(f"{args.threads} threads, medians of {args.runs} runs in turns, tokens/s, "
          f"load {os.getloadavg()[0]:.1f} at the start, {platform.release()}")
    for shape, form in cases:
        runs = {name: [] for name in ["shardline", *peers]}
        for _ in range(args.runs):
            runs["shardline"].append(run_ours(args, shape, form))
            for name in peers:
                if (result := PEERS[name](args, shape, form)) is not None:
                    runs[name].append(result)
        machine = runs["shardline"][-1]["machine"]
        if not everything:
            print(f"{machine['device']}; memory read {machine['read_GB_per_s']:.1f} GB/s, "
                  f"float32 {machine['fma_TFLOP_per_s']:.2f}, "
                  f"bf16 {machine['bf16_TFLOP_per_s']:.2f} TFLOP/s, "
                  f"int8 {machine['int8_TOP_per_s']:.2f} TOP/s; "
                  f"AMX bf16 {machine['amx_bf16_TFLOP_per_s']:.2f} TFLOP/s, "
                  f"int8 {machine['amx_int8_TOP_per_s']:.2f} TOP/s\n")
            print(f"| shape | format | test | {' | '.join(runs)} | to the best peer | of read |")
            print("|---" * (len(runs) + 5) + "|")
        for test, size in keys:
            medians = {name: median(results, (test, size)) for name, results in runs.items()
                       if results}
            best = max(speed for name, speed in medians.items() if name != "shardline")
            speeds = " | ".join(f"{medians[name]:.1f}" if name in medians else "" for name in runs)
            share = (f"{median(runs['shardline'], ('of_read', size)):.0%}" if test == "decode"
                     else "")
            name = f"{test} {size}" if test == "prompt" else f"{test} x{size}"
            print(f"| {shape} | {form} | {name} | {speeds} | {medians['shardline'] / best:.2f} | "
                  f"{share} |", flush=True)
            everything.append({"shape": shape, "format": form, "test": test, "size": size,
                               **{name: [run[test, size] for run in results]
                                  for name, results in runs.items()}})
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(everything, file, indent=1)


if __name__ == "__main__":
    main()
