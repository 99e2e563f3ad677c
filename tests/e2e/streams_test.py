"""32 streams at once, some cancelled, some too slow for their deadline: each ends once and right.

The KV memory is too small for all, so that sequences are preempted as well. Everything random comes
from one seed; only what the clock decides differs from run to run.
"""

import concurrent.futures
import dataclasses
import random
import sys
import time

import grpc

from harness import Cluster, error_of, pb, request, smollm2, wait_for

SEQUENCES, QUEUE, MODEL_LENGTH = 8, 40, 256
KV_BYTES = 4_000_000  # little more than one sequence of MODEL_LENGTH on the larger stage
OK = grpc.StatusCode.OK


@dataclasses.dataclass
class Plan:
    """One client's request and how it behaves."""
    message: pb.GenerateRequest
    cancel_after: int | None = None  # tokens
    timeout: float | None = None     # seconds
    tokens: list = dataclasses.field(default_factory=list)
    code: grpc.StatusCode | None = None
    last: pb.GenerateStreamResponse | None = None

    def run(self, stub):
        call = stub.GenerateStream(self.message, timeout=self.timeout)
        try:
            for message in call:
                assert self.last is None, "a message after the last"
                self.tokens.extend(message.token_ids)
                if message.finish_reason:
                    self.last = message
                if self.cancel_after is not None and len(self.tokens) >= self.cancel_after:
                    call.cancel()
        except grpc.RpcError:
            pass
        self.code = call.code()


def plans(count, seed=7):
    rng = random.Random(seed)
    made = []
    for i in range(count):
        prompt = [rng.randrange(300, 49000)
                  for _ in range(rng.choice([1, 9, 15, 16, 17, 33, 70, 150]))]
        sampling = {} if i % 2 == 0 else {"temperature": rng.choice([0.7, 1.0]), "seed": i,
                                          "top_p": rng.choice([1.0, 0.9]),
                                          "top_k": rng.choice([0, 40])}
        plan = Plan(request(prompt, max_tokens=rng.choice([1, 5, 40]), ignore_eos=i % 3 != 0,
                            **sampling))
        if i % 5 == 3:
            plan.cancel_after = rng.randint(0, 12)
            plan.message.sampling.max_tokens, plan.message.sampling.ignore_eos = 100, True
        elif i % 5 == 4:
            plan.timeout = rng.choice([0.05, 0.5, 1.5])
            plan.message.sampling.max_tokens, plan.message.sampling.ignore_eos = 100, True
        made.append(plan)
    return made


def check_idle(cluster):
    """Everything that was accepted has ended, and nothing is held."""
    now = wait_for(lambda: (s := cluster.status()).queue.running + s.queue.waiting == 0 and s,
                   "an idle cluster")
    assert now.replicas[0].kv_blocks_used == 0 and now.queue.waiting_tokens == 0, now
    counted = now.counters
    assert counted.requests_accepted == counted.requests_finished + counted.requests_cancelled, now
    return counted


def storm(cluster):
    clients = plans(32)
    begin = time.time()
    with concurrent.futures.ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(lambda plan: plan.run(cluster.stub), clients))
    seconds = time.time() - begin
    counted = check_idle(cluster)
    for i, plan in enumerate(clients):
        if plan.cancel_after is not None:
            assert plan.code == grpc.StatusCode.CANCELLED, (i, plan)
        elif plan.timeout is not None and plan.last is None:
            assert plan.code == grpc.StatusCode.DEADLINE_EXCEEDED, (i, plan)
        else:
            assert plan.code == OK and plan.last, (i, plan)
            assert plan.last.usage.completion_tokens == len(plan.tokens), (i, plan)
    print(f"32 streams in {seconds:.1f} s: "
          f"{sum(p.code == OK for p in clients)} completed, "
          f"{sum(p.code == grpc.StatusCode.CANCELLED for p in clients)} cancelled, "
          f"{sum(p.code == grpc.StatusCode.DEADLINE_EXCEEDED for p in clients)} too late, "
          f"{counted.requests_resumed} times preempted", flush=True)

    begin = time.time()
    for i, plan in enumerate(clients):
        if not plan.tokens:
            continue
        plan.message.sampling.max_tokens = len(plan.tokens)
        alone = list(cluster.stub.Generate(plan.message).token_ids)
        assert alone == plan.tokens, (i, alone, plan.tokens)
    check_idle(cluster)
    print(f"tokens equal each stream's solo run, {time.time() - begin:.1f} s", flush=True)


def full_queue(cluster):
    before = cluster.status().counters.requests_rejected
    long = request([5] * 32, max_tokens=200, ignore_eos=True)
    held = [cluster.stub.Generate.future(long) for _ in range(SEQUENCES + 1)]
    wait_for(lambda: cluster.status().queue.running > 0, "the first to run")
    while (s := cluster.status()).queue.waiting < QUEUE:
        assert len(held) < 2 * (SEQUENCES + QUEUE), s
        held.append(cluster.stub.Generate.future(long))
    code, text, metadata = error_of(lambda: cluster.stub.Generate(long))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED, (code, text)
    assert "the queue is full" in text and "--max-queued-requests" in text, text
    assert int(metadata["grpc-retry-pushback-ms"]) > 0, metadata
    wait_for(lambda: cluster.status().counters.requests_rejected > before, "a refusal counted")
    for call in held:
        call.cancel()
    counted = check_idle(cluster)
    print(f"full queue: {len(held)} held and cancelled, one refused; "
          f"{counted.requests_cancelled} cancelled in all", flush=True)


def main():
    with Cluster(smollm2(), "--pipeline-parallel-size", 2, "--max-model-len", MODEL_LENGTH,
                 "--max-num-seqs", SEQUENCES, "--max-queued-requests", QUEUE,
                 "--max-num-batched-tokens", 128, "--kv-cache-memory", KV_BYTES) as cluster:
        storm(cluster)
        full_queue(cluster)


if __name__ == "__main__":
    sys.exit(main())
