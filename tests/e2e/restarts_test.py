"""Streams under load while the coordinator is killed and ranks are killed, stopped and cut off.

The coordinator has a journal; it is started again at once, as `shardline up` does, and its ranks
attach again. Every client reads on with its request's id and the index of the next token, and checks
that no index is missing or repeated. In the end all answers must be those of an undisturbed run.
Prints a table; `--requests 500 --restarts 50` is the long version.
"""

import argparse
import collections
import dataclasses
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time

import grpc

import faults_test
from faults_test import SERVING, losses_in
from harness import Coordinator, pb_grpc, request, smollm2, wait_for

CLIENTS = 16
RESTART = "coordinator kill -9"
PATIENCE = 120  # seconds that a client tries to come back


@dataclasses.dataclass
class Work:
    """A request, and what its client has of it."""
    message: object
    tokens: list = dataclasses.field(default_factory=list)
    wrong: str = ""
    ended: int = 0
    attachments: int = 0
    faults: list = dataclasses.field(default_factory=list)  # during its life

    def read(self, address):
        """Reads the stream on until it ends, over as many calls as that takes."""
        deadline = time.time() + PATIENCE
        while not self.ended and not self.wrong:
            del self.message.next_index[:]
            self.message.next_index.append(len(self.tokens))
            self.attachments += 1
            try:
                with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1),
                                                     ("grpc.enable_retries", 0)]) as channel:
                    for part in pb_grpc.GenerationStub(channel).GenerateStream(
                            self.message, timeout=PATIENCE):
                        self.take(part)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or time.time() > deadline:
                    self.wrong = f"{error.code()}: {error.details()}"
                elif not self.ended:
                    time.sleep(0.05)
        return self

    def take(self, part):
        if self.ended:
            self.wrong = "a message after the end"
        if part.token_ids and part.first_token != len(self.tokens):
            self.wrong = f"token {part.first_token} where {len(self.tokens)} was next"
        self.tokens.extend(part.token_ids)
        self.ended += bool(part.finish_reason)


class Supervised(faults_test.Replica):
    """Ranks that leave by themselves are started again."""

    def __init__(self, cluster, name):
        self.lock = threading.Lock()
        self.closing = threading.Event()
        super().__init__(cluster, name)
        self.thread = threading.Thread(target=self.supervise)
        self.thread.start()

    def supervise(self):
        while not self.closing.wait(0.2):
            with self.lock:
                if self.ranks.mpirun.poll() is not None:
                    self.ranks.kill()
                    self.start()

    def restart(self):
        with self.lock:
            super().restart()

    def close(self):
        self.closing.set()
        self.thread.join()
        super().close()


class Cluster:
    def __init__(self, requests, seed):
        self.rng = random.Random(seed)
        self.directory = tempfile.mkdtemp(prefix="shardline-journal.")
        self.address = "127.0.0.1:0"
        self.start()
        self.replicas = [Supervised(self, str(i)) for i in range(2)]
        self.all_serve()
        self.waiting = collections.deque()
        self.open = {}  # by identity
        self.done = []
        self.lock = threading.Lock()
        self.messages = []
        for i in range(requests):
            sampling = {} if i % 2 == 0 else {"temperature": 1.0, "seed": i, "top_p": 0.95}
            prompt = [self.rng.randrange(300, 49000) for _ in range(self.rng.choice([3, 17, 40, 120]))]
            message = request(prompt, max_tokens=self.rng.choice([8, 16, 32]), ignore_eos=True,
                              **sampling)
            self.messages.append(message)

    def start(self):
        self.coordinator = Coordinator(
            smollm2(), "--replicas", 2, "--tensor-parallel-size", 2, "--max-model-len", 512,
            "--journal", self.directory, "--journal-segment-bytes", 200_000, listen=self.address)
        self.address = self.coordinator.address

    def status(self):
        return self.coordinator.status()

    def all_serve(self):
        wait_for(lambda: all(r.status().state == SERVING for r in self.replicas),
                 "both replicas to serve", 120)

    def serves(self):
        try:
            return self.status().serving
        except grpc.RpcError:
            return False

    def begin(self, life):
        """Clients take on all requests, under ids of this life."""
        self.done = []
        for i, message in enumerate(self.messages):
            work = Work(type(message)())
            work.message.CopyFrom(message)
            work.message.request_id = f"{life}-{i}"
            self.waiting.append(work)
        self.clients = [threading.Thread(target=self.client) for _ in range(CLIENTS)]
        for client in self.clients:
            client.start()

    def client(self):
        while True:
            with self.lock:
                if not self.waiting:
                    return
                work = self.waiting.popleft()
                self.open[id(work)] = work
            work.read(self.address)
            with self.lock:
                del self.open[id(work)]
                self.done.append(work)

    def finish(self):
        for client in self.clients:
            client.join()
        return {work.message.request_id.split("-")[1]: work for work in self.done}

    def note(self, fault):
        """The requests that are open now live through the fault; how many."""
        with self.lock:
            for work in self.open.values():
                work.faults.append(fault)
            return len(self.open)

    def kill_coordinator(self, phase):
        if phase == "decode":
            steps = [r.steps for r in self.status().replicas]
            wait_for(lambda: [r.steps for r in self.status().replicas] != steps, "a step")
        begin = time.time()
        self.coordinator.process.send_signal(signal.SIGKILL)
        self.coordinator.process.wait()
        self.coordinator.__exit__(None, None, None)
        found = time.time() - begin
        self.start()
        if phase == "attach":  # and once more before its ranks are back
            time.sleep(self.rng.uniform(0, 0.3))
            self.coordinator.process.kill()
            self.coordinator.__exit__(None, None, None)
            self.start()
        wait_for(self.serves, "the ranks to attach again", 60)
        return found, time.time() - begin

    def hit_rank(self, fault):
        self.all_serve()
        replica = self.rng.choice(self.replicas)
        before = len(losses_in(self.coordinator.log_text(), replica.name))
        begin = faults_test.Faults.inject(self, fault, replica, "decode")
        found = wait_for(lambda: losses_in(self.coordinator.log_text(), replica.name)[before:],
                         f"{fault} to be found")[0]
        replica.network.release()
        replica.restart()
        return found - begin, time.time() - begin

    def close(self):
        for replica in self.replicas:
            replica.close()
        self.coordinator.__exit__(None, None, None)
        shutil.rmtree(self.directory)


def table(rows, works):
    lost = collections.Counter(fault for work in works if work.wrong for fault in work.faults)
    print("| fault | phase | runs | found after s (median, most) | over after s (median, most) | "
          "open requests | lost |\n|---|---|---|---|---|---|---|")
    for (fault, phase), runs in sorted(rows.items()):
        found, over = [run[0] for run in runs], [run[1] for run in runs]
        print(f"| {fault} | {phase} | {len(runs)} | {statistics.median(found):.2f}, {max(found):.2f} | "
              f"{statistics.median(over):.2f}, {max(over):.2f} | {sum(run[2] for run in runs)} | "
              f"{lost[(fault, phase)]} |", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--requests", type=int, default=40)
    arguments.add_argument("--restarts", type=int, default=3, help="of the coordinator")
    arguments.add_argument("--rank-faults", type=int, default=1, help="of each kind")
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    cluster = Cluster(options.requests, options.seed)
    try:
        cluster.begin("undisturbed")
        undisturbed = cluster.finish()
        assert not any(work.wrong for work in undisturbed.values()), undisturbed

        faults = ([(RESTART, "decode"), (RESTART, "attach"), (RESTART, "any")] * options.restarts
                  )[:options.restarts]
        faults += [(fault, "decode") for fault in faults_test.FAULTS] * options.rank_faults
        cluster.rng.shuffle(faults)
        rows = collections.defaultdict(list)
        life, works = 0, []
        while faults:  # the same requests again, as often as there are faults for
            cluster.begin(f"life{life}")
            while faults and (cluster.waiting or cluster.open):
                fault, phase = faults.pop()
                if phase == "any":
                    time.sleep(cluster.rng.uniform(0, 0.5))
                open_requests = cluster.note((fault, phase))
                found, over = (cluster.kill_coordinator(phase) if fault == RESTART
                               else cluster.hit_rank(fault))
                rows[(fault, phase)].append((found, over, open_requests))
            answers = cluster.finish()
            for name, work in answers.items():
                if not work.wrong and work.tokens != undisturbed[name].tokens:
                    work.wrong = "other tokens"
                if work.wrong:
                    print(f"request {name}, {work.attachments} attachments, {work.faults}: "
                          f"{work.wrong}", file=sys.stderr)
            assert len(answers) == options.requests
            works += answers.values()
            life += 1
        table(rows, works)
        lost = sum(bool(work.wrong) for work in works)
        print(f"{len(works)} requests, {sum(work.attachments - 1 for work in works)} streams read on, "
              f"{lost} lost")
        now = wait_for(lambda: (s := cluster.status()).queue.running + s.queue.waiting == 0 and s,
                       "an idle cluster")
        assert all(replica.kv_blocks_used == 0 for replica in now.replicas), now
        return int(lost > 0)
    finally:
        cluster.close()


if __name__ == "__main__":
    sys.exit(main())
