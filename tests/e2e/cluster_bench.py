"""What the cluster costs: TP=2 with one thread a rank beside one rank with two threads, through
coordinator, gRPC and MPI; and what is between the client and a step's arithmetic.

    SHARDLINE_BIN=build/cpu/bin python3 tests/e2e/cluster_bench.py MODEL [--runs 5]

MODEL should be of the size in question (scripts/make_checkpoint.py --like tinyllama-1.1b).
Medians. Not a test: run by hand, on a machine that does nothing else.
"""
import argparse
import statistics
import time

from harness import Cluster, request

PROMPT, DECODE, WARM_UP = 512, 64, 8


def measure(cluster, run):
    """(prompt tokens/s, decode tokens/s, share of a decode step outside the ranks' computing)."""
    prompt = [(i * 7919 + run * 31) % 30000 + 10 for i in range(PROMPT)]
    begin, times, before = time.perf_counter(), [], None
    for message in cluster.stub.GenerateStream(
            request(prompt, max_tokens=WARM_UP + DECODE + 1, ignore_eos=True)):
        times += [time.perf_counter()] * len(message.token_ids)
        if len(times) >= WARM_UP and before is None:
            before, counted = cluster.status().replicas[0], len(times)
    after = cluster.status().replicas[0]
    steps = after.steps - before.steps
    active = after.active_seconds - before.active_seconds
    busy = max(r.busy_seconds for r in after.ranks) - max(r.busy_seconds for r in before.ranks)
    return (PROMPT / (times[0] - begin), (len(times) - counted) / (times[-1] - times[counted - 1]),
            1 - busy / active if steps else float("nan"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    flags = ["--compute-dtype", "auto", "--max-model-len", 1024, "--kv-cache-memory", 256 << 20]
    layouts = {"1 rank x 2 threads": (1, 2), "2 ranks x 1 thread": (2, 1)}
    results = {name: [] for name in layouts}
    for name, (ranks, threads) in layouts.items():
        with Cluster(args.model, "--tensor-parallel-size", ranks, "--threads", threads,
                     *flags) as cluster:
            measure(cluster, 0)
            results[name] = [measure(cluster, 1 + run) for run in range(args.runs)]
        prompt, decode, between = (statistics.median(column) for column in zip(*results[name]))
        print(f"{name}: prompt {prompt:.1f} tokens/s, decode {decode:.2f} tokens/s, "
              f"{between:.1%} of a step outside the ranks", flush=True)
    one, two = ([statistics.median(column) for column in zip(*rows)] for rows in results.values())
    print(f"two ranks lose {1 - two[0] / one[0]:.1%} of the prompt, {1 - two[1] / one[1]:.1%} of the "
          f"decode")


if __name__ == "__main__":
    main()
