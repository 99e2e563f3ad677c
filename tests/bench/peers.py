"""Runs model_bench and llama.cpp's benchmarks in turns; prints medians and ratios as a table.

Called by scripts/bench_peers.sh, which builds what it needs.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys

PROMPT = 512
GENERATE = 32
# Sequences decoded at once, and the prompt before each.
BATCHES = {1: 512, 8: 128, 32: 128}


def lines_of(command):
    """JSON objects that a program prints, one a line; other lines are dropped."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def run_ours(args, model):
    """Tokens per second by (test, batch), and the machine's description."""
    result = {}
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


def run_llama(args, model):
    """The same of llama.cpp, in its default settings but for the threads."""
    result = {}
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


def checkpoint(args, shape, form):
    path = os.path.join(args.cache, f"{shape}.{form}.gguf")
    if not os.path.exists(path):
        maker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "make_model.py")
        subprocess.run([sys.executable, maker, path + ".part", "--shape", shape, "--format", form],
                       check=True)
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
    parser.add_argument("--json", help="all numbers go here too")
    args = parser.parse_args()

    keys = [("prompt", PROMPT)] + [("decode", batch) for batch in BATCHES]
    everything = []
    print(f"{args.threads} threads, medians of {args.runs} runs in turns, tokens/s, "
          f"load {os.getloadavg()[0]:.1f} at the start, {platform.release()}")
    for shape in args.shapes.split(","):
        for form in args.formats.split(","):
            model = checkpoint(args, shape, form)
            ours, theirs = [], []
            for _ in range(args.runs):
                ours.append(run_ours(args, model))
                theirs.append(run_llama(args, model))
            machine = ours[-1]["machine"]
            if not everything:
                print(f"{machine['device']}; memory read {machine['read_GB_per_s']:.1f} GB/s, "
                      f"float32 {machine['fma_TFLOP_per_s']:.2f}, "
                      f"bf16 {machine['bf16_TFLOP_per_s']:.2f} TFLOP/s, "
                      f"int8 {machine['int8_TOP_per_s']:.2f} TOP/s\n")
                print("| shape | format | test | shardline | llama.cpp | ratio | of read |")
                print("|---|---|---|---|---|---|---|")
            for test, size in keys:
                mine, other = median(ours, (test, size)), median(theirs, (test, size))
                share = f"{median(ours, ('of_read', size)):.0%}" if test == "decode" else ""
                name = f"{test} {size}" if test == "prompt" else f"{test} x{size}"
                print(f"| {shape} | {form} | {name} | {mine:.1f} | {other:.1f} | "
                      f"{mine / other:.2f} | {share} |", flush=True)
                everything.append({"shape": shape, "format": form, "test": test, "size": size,
                                   "ours": [run[test, size] for run in ours],
                                   "llama.cpp": [run[test, size] for run in theirs]})
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(everything, file, indent=1)


if __name__ == "__main__":
    main()
