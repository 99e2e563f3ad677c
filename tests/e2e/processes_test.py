"""Coordinator and mpirun started by hand, as a supervisor would: deaths, and what outlives them."""

import os
import re
import signal
import subprocess
import sys
import time

from harness import BIN, Coordinator, collect, processes_of, request, smollm2, wait_for
from ranks import Ranks

SERVING = 4


def none_left(address):
    wait_for(lambda: not processes_of(address), f"the end of {processes_of(address)}")


def serve(coordinator, *flags):
    ranks = Ranks(coordinator.address, 2, *flags)
    wait_for(lambda: coordinator.status().replicas[0].state == SERVING, "the replica to serve", 60)
    return ranks


def wrong_starts():
    with Coordinator(smollm2(), "--tensor-parallel-size", 2) as coordinator:
        port = coordinator.address.rsplit(":", 1)[1]
        second = subprocess.run([BIN / "shardline-coordinator", smollm2(), "--listen",
                                 coordinator.address], capture_output=True, text=True, timeout=20)
        assert second.returncode == 7 and port in second.stderr, second
        assert "--listen" in second.stderr, second
        code, output = Ranks(coordinator.address, 1).end()
        assert code == 3 and "start mpirun with -n 2" in output, (code, output)
    code, output = Ranks("127.0.0.1:1", 2, "--attach-timeout", "1").end()
    assert code == 3 and re.search("no coordinator answers at 127.0.0.1:1 after 1 s", output), output


def deaths():
    with Coordinator(smollm2(), "--tensor-parallel-size", 2, "--max-model-len", 512) as coordinator:
        ranks = serve(coordinator)
        message = request("The capital of France is", max_tokens=30, ignore_eos=True)
        undisturbed = list(coordinator.stub.Generate(message).token_ids)

        # One rank dies: all of its replica leave, the stream waits for the next ranks and goes on.
        stream = coordinator.stub.GenerateStream(message)
        first = list(next(stream).token_ids)
        os.kill(coordinator.status().replicas[0].ranks[1].pid, signal.SIGKILL)
        code, output = ranks.end()
        assert code != 0, output
        wait_for(lambda: coordinator.status().replicas[0].epoch == 2, "the loss to be noticed")
        now = coordinator.status()
        assert now.replicas[0].last_error.startswith("rank ") and now.replicas[0].state != SERVING, now
        assert len(processes_of(coordinator.address)) == 0, processes_of(coordinator.address)
        ranks = serve(coordinator)
        rest, _, last = collect(stream)
        assert first + rest == undisturbed, (first, rest, undisturbed)
        assert last.usage.completion_tokens == 30, last

        # SIGTERM: what runs is finished, ranks leave in order.
        running = coordinator.stub.Generate.future(message)
        wait_for(lambda: coordinator.status().queue.running == 1, "the request to run")
        coordinator.process.send_signal(signal.SIGTERM)
        assert list(running.result().token_ids) == undisturbed
        assert coordinator.process.wait(timeout=20) == 0
        code, output = ranks.end()
        assert code == 0 and "leaving: the coordinator stops" in output, (code, output)
        none_left(coordinator.address)


def coordinator_dies():
    with Coordinator(smollm2(), "--tensor-parallel-size", 2, "--max-model-len", 512) as coordinator:
        ranks = serve(coordinator, "--reattach-timeout", 0)
        stream = coordinator.stub.GenerateStream(request("Hi", max_tokens=400, ignore_eos=True))
        next(stream)
        coordinator.process.kill()
        code, output = ranks.end()
        assert code == 3, (code, output)
        none_left(coordinator.address)


def main():
    for check in (wrong_starts, deaths, coordinator_dies):
        begin = time.time()
        check()
        print(f"{check.__name__}: ok, {time.time() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
