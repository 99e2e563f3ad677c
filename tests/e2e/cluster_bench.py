"""What the cluster costs: TP=2 with one thread a rank beside one rank with two threads, through
coordinator, gRPC and MPI; and what is between the client and a step's arithmetic.

    SHARDLINE_BIN=build/cpu/bin python3 tests/e2e/cluster_bench.py MODEL [--runs 5]

MODEL should be of the size in question (scripts/make_checkpoint.py --like tinyllama-1.1b).
The two clusters run in turns, the first turn does not count; medians. Not a test: run by hand, on a
machine that does nothing else.
"""
import argparse
import contextlib
import statistics
import time

from harness import Cluster, request

PROMPT, DECODE, WARM_UP = 512, 64, 8
# A rank tells a few times a second how long it was busy: after this, it has told all.
HEARTBEATS = 0.5


def tokens_of(count, run):
    return [(i * 7919 + run * 31) % 30000 + 10 for i in range(count)]


def stream_times(cluster, tokens, count):
    """When the stream was opened, and when each token came."""
    times, begin = [], time.perf_counter()
    for message in cluster.stub.GenerateStream(
            request(tokens, max_tokens=count, ignore_eos=True)):
        times += [time.perf_counter()] * len(message.token_ids)
    return begin, times


def measure(cluster, run):
    """(prompt tokens/s, decode tokens/s, share of a decode step outside the ranks' computing)."""
    begin, times = stream_times(cluster, tokens_of(PROMPT, run), WARM_UP + DECODE)
    time.sleep(HEARTBEATS)
    before = cluster.status().replicas[0]
    stream_times(cluster, tokens_of(1, run), DECODE)
    time.sleep(HEARTBEATS)
    after = cluster.status().replicas[0]
    active = after.active_seconds - before.active_seconds
    # A rank that waits for another one's part counts as busy: the one that began last tells.
    busy = min(now.busy_seconds - then.busy_seconds
               for now, then in zip(after.ranks, before.ranks))
    decode = DECODE / (times[-1] - times[WARM_UP - 1])
    return PROMPT / (times[0] - begin), decode, 1 - busy / active


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    flags = ["--compute-dtype", "auto", "--max-model-len", 1024, "--kv-cache-memory", 256 << 20]
    layouts = {"1 rank x 2 threads": (1, 2), "2 ranks x 1 thread": (2, 1)}
    results = {name: [] for name in layouts}
    with contextlib.ExitStack() as stack:
        clusters = {name: stack.enter_context(
            Cluster(args.model, "--tensor-parallel-size", ranks, "--threads", threads, *flags))
            for name, (ranks, threads) in layouts.items()}
        for run in range(args.runs + 1):
            for name, cluster in clusters.items():
                results[name].append(measure(cluster, run))
    medians = {}
    for name, rows in results.items():
        medians[name] = [statistics.median(column) for column in zip(*rows[1:])]
        prompt, decode, between = medians[name]
        print(f"{name}: prompt {prompt:.1f} tokens/s, decode {decode:.2f} tokens/s, "
              f"{between:.1%} of a step outside the ranks", flush=True)
    one, two = medians.values()
    print(f"two ranks lose {1 - two[0] / one[0]:.1%} of the prompt, {1 - two[1] / one[1]:.1%} of the "
          f"decode")


if __name__ == "__main__":
    main()
