"""Ranks of two replicas are killed, stopped and cut off in every phase of their life, under load.

Prints a table: after how long the coordinator found out, and how many requests were lost (refused,
ended twice or never, or with other tokens than an undisturbed run). `--runs 3` is the long version,
of more than 500 requests.
"""

import argparse
import concurrent.futures
import datetime
import os
import random
import re
import signal
import statistics
import sys
import time

import grpc

from harness import Coordinator, admin_pb, request, smollm2, wait_for
from ranks import Network, Ranks

WAITING, LOADING, WARMING, SERVING = 1, 2, 3, 4
RANKS = 2  # of a replica, tensor-parallel: so that a fault finds the other in a collective
REQUESTS = 8  # beside each fault
FAULTS = {"kill -9": 1.0, "SIGSTOP": 1.0, "network cut": 5.0}  # and seconds to find it in
PHASES = ("attach", "load", "warm-up", "idle", "prefill", "decode", "drain")


class Replica:
    """One replica, its network and its supervisor: what a fault leaves is ended and started again."""

    def __init__(self, coordinator, name):
        self.coordinator, self.name = coordinator, name
        self.network = Network(coordinator.address)
        self.start()

    def start(self):
        self.ranks = Ranks(self.network.address, RANKS, "--replica", self.name,
                           "--ranks-on-host", 2 * RANKS)

    def status(self):
        return next(r for r in self.coordinator.status().replicas if r.name == self.name)

    def restart(self):
        self.ranks.kill()
        self.start()

    def close(self):
        self.ranks.kill()
        self.network.close()


def messages(rng, count, long_prompts):
    made = []
    for i in range(count):
        length = rng.choice([200, 400]) if long_prompts else rng.choice([3, 17, 40])
        sampling = {} if i % 2 == 0 else {"temperature": 1.0, "seed": rng.randrange(1 << 40),
                                          "top_p": 0.95}
        made.append(request([rng.randrange(300, 49000) for _ in range(length)],
                            max_tokens=8 if long_prompts else 40, ignore_eos=True, **sampling))
    return made


def answer(stub, message):
    """Token ids, or the error's code; a stream that goes on after its end is an error too."""
    tokens, ended = [], False
    try:
        for part in stub.GenerateStream(message, timeout=120):
            if ended:
                return "went on after its end"
            tokens.extend(part.token_ids)
            ended = bool(part.finish_reason)
    except grpc.RpcError as error:
        return str(error.code())
    return tokens if ended else "ended without a word"


def losses_in(log, name):
    """Times at which the coordinator noticed the loss of the replica."""
    found = re.findall(rf"^(\S+) error coordinator: replica {name} lost: ", log, re.MULTILINE)
    return [datetime.datetime.fromisoformat(stamp).timestamp() for stamp in found]


class Faults:
    def __init__(self, coordinator, seed):
        self.coordinator = coordinator
        self.rng = random.Random(seed)
        self.replicas = [Replica(coordinator, str(i)) for i in range(2)]
        self.pool = concurrent.futures.ThreadPoolExecutor(REQUESTS)
        self.all_serve()

    def close(self):
        for replica in self.replicas:
            replica.close()
        self.pool.shutdown()

    def all_serve(self):
        wait_for(lambda: all(r.status().state == SERVING for r in self.replicas),
                 "both replicas to serve", 120)

    def submit(self, batch):
        return [self.pool.submit(answer, self.coordinator.stub, message) for message in batch]

    def inject(self, fault, replica, phase):
        """The time of the fault, which hits one of the ranks that are attached."""
        attached = [rank for rank in replica.status().ranks if rank.attached]
        pid = self.rng.choice(attached).pid
        begin = time.time()
        if fault == "network cut":
            # In the attach phase, the connection made last is still held.
            replica.network.cut(2 if phase == "attach" else self.rng.randint(1, RANKS))
        else:
            os.kill(pid, signal.SIGKILL if fault == "kill -9" else signal.SIGSTOP)
        return begin

    def reach(self, phase, replica):
        """Brings the replica to the phase; the requests that run meanwhile."""
        batch = messages(self.rng, REQUESTS, long_prompts=phase == "prefill")
        if phase in ("attach", "load", "warm-up"):
            running = self.submit(batch)
            if phase == "attach":
                replica.network.hold_after(1)
            replica.restart()
            wanted = {"attach": lambda s: s.state == WAITING and any(r.attached for r in s.ranks),
                      "load": lambda s: s.state >= LOADING,
                      "warm-up": lambda s: s.state >= WARMING}[phase]
            wait_for(lambda: wanted(replica.status()), f"{phase} of replica {replica.name}", 60)
        elif phase == "idle":
            running = []
        else:
            running = self.submit(batch)
            wait_for(lambda: replica.status().running > 0 or all(f.done() for f in running),
                     "a request on the replica")
            if phase == "decode":
                steps = replica.status().steps
                wait_for(lambda: replica.status().steps > steps + 5 or all(f.done() for f in running),
                         "some steps")
            elif phase == "drain":
                self.coordinator.admin.Drain(admin_pb.DrainRequest(replica=replica.name))
        return batch, running

    def run(self, fault, phase):
        """(seconds until it was found, requests, lost)."""
        replica = self.rng.choice(self.replicas)
        batch, running = self.reach(phase, replica)
        before = len(losses_in(self.coordinator.log_text(), replica.name))
        begin = self.inject(fault, replica, phase)
        wait_for(lambda: len(losses_in(self.coordinator.log_text(), replica.name)) > before,
                 f"{fault} in {phase} to be found")
        found = losses_in(self.coordinator.log_text(), replica.name)[before]
        replica.network.release()
        # The requests go on without the replica's coming back.
        answers = [future.result() for future in running or self.submit(batch)]
        self.coordinator.admin.Undrain(admin_pb.UndrainRequest(replica=replica.name))
        replica.restart()
        self.all_serve()
        undisturbed = [future.result() for future in self.submit(batch)]
        lost = sum(got != expected or isinstance(got, str)
                   for got, expected in zip(answers, undisturbed))
        return found - begin, len(batch), lost


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=1, help="of each fault in each phase")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--faults", nargs="*", choices=list(FAULTS), default=list(FAULTS))
    options = arguments.parse_args()
    failed = False
    with Coordinator(smollm2(), "--replicas", 2, "--tensor-parallel-size", RANKS,
                     "--max-model-len", 1024) as coordinator:
        faults = Faults(coordinator, options.seed)
        try:
            print("| fault | phase | runs | found after s (median, most) | requests | lost |\n"
                  "|---|---|---|---|---|---|", flush=True)
            for fault in options.faults:
                for phase in PHASES:
                    runs = [faults.run(fault, phase) for _ in range(options.runs)]
                    seconds = [run[0] for run in runs]
                    requests, lost = sum(run[1] for run in runs), sum(run[2] for run in runs)
                    print(f"| {fault} | {phase} | {len(runs)} | {statistics.median(seconds):.2f}, "
                          f"{max(seconds):.2f} | {requests} | {lost} |", flush=True)
                    failed |= lost > 0 or statistics.median(seconds) > FAULTS[fault]
            # Every silence was a fault of ours: load alone makes no rank look dead.
            silences = coordinator.log_text().count("(--heartbeat-timeout)")
            assert silences == options.runs * len(PHASES) * sum(
                fault != "kill -9" for fault in options.faults), silences
            now = coordinator.status()
            assert now.queue.running == now.queue.waiting == 0, now
            assert all(replica.kv_blocks_used == 0 for replica in now.replicas), now
        finally:
            faults.close()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
