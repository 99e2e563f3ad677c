"""What the coordinator costs: CPU time a step and a token at 32 streams, and when nothing runs.

A played rank answers at once, so only the coordinator's own work is in the way. Not a test: run by
hand, with SHARDLINE_BIN and SHARDLINE_SMOLLM2_GGUF set.
"""

import concurrent.futures
import os
import sys
import time

from harness import Coordinator, collect, request, smollm2, wait_for
from played_rank import PlayedRank

STREAMS, TOKENS, IDLE_SECONDS = 32, 1000, 3


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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


if __name__ == "__main__":
    sys.exit(main())
