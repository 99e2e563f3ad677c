"""What the coordinator costs: CPU time a step and a token at 32 streams, and when nothing runs; and
with real ranks, its share of a step, how long each pipeline stage waits, and what a journal costs.

First a played rank answers at once, so only the coordinator's own work is in the way. Not a test:
run by hand, with SHARDLINE_BIN and SHARDLINE_SMOLLM2_GGUF set.
"""

import concurrent.futures
import os
import subprocess
import sys
import tempfile
import time

from harness import BIN, Cluster, Coordinator, collect, request, smollm2, wait_for
from played_rank import PlayedRank

STREAMS, TOKENS, DECODES, IDLE_SECONDS = 32, 1000, 200, 3


def cpu_seconds(pid):
    """Of all threads that are alive, in the scheduler's nanoseconds: ticks would be too coarse."""
    tasks = f"/proc/{pid}/task"
    return sum(int(open(f"{tasks}/{task}/schedstat").read().split()[0])
               for task in os.listdir(tasks)) / 1e9


def at_beats(cluster):
    """By rank: (seconds the replica was active, seconds the rank was busy), each as its heartbeat
    comes, which alone tells of the latter."""
    seen, found = {}, {}
    ranks = len(cluster.status().replicas[0].ranks)
    while len(found) < ranks:
        replica = cluster.status().replicas[0]
        for rank in replica.ranks:
            if seen.setdefault(rank.rank, rank.busy_seconds) != rank.busy_seconds:
                found.setdefault(rank.rank, (replica.active_seconds, rank.busy_seconds))
        time.sleep(0.005)
    return [found[rank] for rank in range(ranks)]


def real_ranks(stages, *flags, streams=STREAMS):
    """Decode in steady state: between two looks while all streams run."""
    with Cluster(smollm2(), "--pipeline-parallel-size", stages, "--max-model-len", 1024,
                 *flags) as cluster:
        up = cluster.process.pid
        children = open(f"/proc/{up}/task/{up}/children").read().split()
        pid = next(c for c in children if "coord" in open(f"/proc/{c}/comm").read())

        # The load takes its share of the CPUs that the ranks compute on: a light client.
        load = subprocess.Popen([BIN / "shardline", "bench", "--address", cluster.address,
                                 "--concurrency", str(streams), "--requests", str(streams),
                                 "--prompt-tokens", "20", "--answer-tokens", str(DECODES)],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: cluster.status().counters.generated_tokens > 10 * streams, "tokens", 120)
        beats_before = at_beats(cluster)
        first, cpu = cluster.status(), cpu_seconds(pid)
        wait_for(lambda: cluster.status().counters.generated_tokens > (DECODES - 20) * streams,
                 "most tokens", 600, every=0.5)
        last, cpu = cluster.status(), cpu_seconds(pid) - cpu
        beats_after = at_beats(cluster)
        assert load.wait(120) == 0
        before, after = first.replicas[0], last.replicas[0]
        active = after.active_seconds - before.active_seconds
        steps = after.steps - before.steps
        kind = ", ".join(flag for flag in flags if flag.startswith("--")) or "no journal"
        print(f"PP={stages}, {streams} streams, {kind}: {steps} steps of {1e3 * active / steps:.2f} ms, "
              f"{(last.counters.generated_tokens - first.counters.generated_tokens) / active:.0f} "
              f"tokens/s; coordinator CPU {1e6 * cpu / steps:.0f} us a step, "
              f"{100 * cpu / active:.2f} % of it")
        for rank, was, now in zip(after.ranks, beats_before, beats_after):
            waited = 1 - (now[1] - was[1]) / (now[0] - was[0])
            print(f"  stage {rank.stage} waited {100 * waited:.1f} % of the time")


def main():
    with Coordinator(smollm2()) as coordinator:
        pid = coordinator.process.pid
        rank = PlayedRank(coordinator.address).serve()
        wait_for(lambda: coordinator.status().replicas[0].state == 4, "the replica to serve")

        def run(_):
            message = request([7] * 100, max_tokens=TOKENS, ignore_eos=True)
            return len(collect(coordinator.stub.GenerateStream(message))[0])

        for name, streams in (("1 stream", 1), (f"{STREAMS} streams", STREAMS)):
            cpu, steps, begin = cpu_seconds(pid), coordinator.status().counters.steps, time.time()
            with concurrent.futures.ThreadPoolExecutor(streams) as pool:
                tokens = sum(pool.map(run, range(streams)))
            cpu, seconds = cpu_seconds(pid) - cpu, time.time() - begin
            steps = coordinator.status().counters.steps - steps
            print(f"{name}: {steps} steps in {seconds:.2f} s; coordinator CPU "
                  f"{1e6 * cpu / steps:.0f} us a step, {1e6 * cpu / tokens:.1f} us a token")
        cpu = cpu_seconds(pid)
        time.sleep(IDLE_SECONDS)
        idle = (cpu_seconds(pid) - cpu) / IDLE_SECONDS
        print(f"idle, one rank attached: {100 * idle:.2f} % of a CPU")
        rank.leave()
    for stages in (1, 2):
        real_ranks(stages)
    real_ranks(2, streams=2 * STREAMS)
    for more in ((), ("--journal-sync", "true")):
        with tempfile.TemporaryDirectory() as journal:
            real_ranks(1, "--journal", journal, *more)


if __name__ == "__main__":
    sys.exit(main())
