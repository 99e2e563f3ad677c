"""Cancels at random points, readers that take nothing, and five times the load that can be served.

A played rank answers, so that the coordinator alone is under test. SHARDLINE_CANCELS,
SHARDLINE_STALLED and SHARDLINE_OVERLOAD_SECONDS make the same longer.
"""

import concurrent.futures
import json
import os
import random
import subprocess
import sys
import time

import grpc

from harness import (BIN, Coordinator, collect, control_pb, pb_grpc, request, smollm2,
                     wait_for)
from played_rank import PlayedRank

CODE = grpc.StatusCode
CANCELS = int(os.environ.get("SHARDLINE_CANCELS", 2000))
STALLED = int(os.environ.get("SHARDLINE_STALLED", 60))
OVERLOAD_SECONDS = float(os.environ.get("SHARDLINE_OVERLOAD_SECONDS", 12))
CLIENTS = 24
SERVING = 4


def resident_bytes(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def check_idle(coordinator, seconds=30):
    now = wait_for(lambda: (s := coordinator.status()).queue.running + s.queue.waiting == 0 and s,
                   "an idle coordinator", seconds)
    assert now.replicas[0].kv_blocks_used == 0 and now.queue.waiting_tokens == 0, now
    counted = now.counters
    assert counted.requests_accepted == counted.requests_finished + counted.requests_cancelled, now
    return counted


def serving(coordinator):
    wait_for(lambda: coordinator.status().replicas[0].state == SERVING, "the replica to serve")


def cancels():
    """Each stream is cancelled before its first token, after some, or at its end."""
    with Coordinator(smollm2(), "--max-num-seqs", 16, "--max-model-len", 512) as coordinator:
        rank = PlayedRank(coordinator.address).serve()
        serving(coordinator)

        def run(seed):
            rng = random.Random(seed)
            message = request([7] * rng.choice([1, 20, 300]), max_tokens=30, ignore_eos=True)
            message.sampling.n = rng.choice([1, 1, 1, 3])
            stream = coordinator.stub.GenerateStream(message)
            after, got = rng.choice([0, 0, rng.randrange(32)]), 0
            try:
                while got < after:
                    got += len(next(stream).token_ids)
            except StopIteration:
                pass
            stream.cancel()

        run(0)
        before = resident_bytes(coordinator.process.pid)
        begin = time.time()
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(run, range(CANCELS)))
        counted = check_idle(coordinator)
        grown = resident_bytes(coordinator.process.pid) - before
        print(f"{CANCELS} cancels in {time.time() - begin:.1f} s: {counted.requests_cancelled} "
              f"sequences cancelled, {counted.requests_finished} finished; no block held, memory "
              f"grew by {grown / 1e6:.1f} MB", flush=True)
        assert counted.requests_cancelled > CANCELS / 4, counted
        assert grown < 64e6, grown
        rank.leave()


class ScoringRank(PlayedRank):
    """Answers with scores, so that an answer is larger than what gRPC holds for a reader."""

    SCORE = control_pb.TokenScore(logprob=-1, top_tokens=range(20), top_logprobs=[-1] * 20)

    def answer(self, plan, token=5):
        sampled = [control_pb.SampledToken(slot=work.slot, token=token, score=self.SCORE)
                   for work in plan.work if work.sample]
        self.say(result=control_pb.StepResult(epoch=plan.epoch, step=plan.step, sampled=sampled))


def stalled_readers():
    """Clients that take nothing are let go, and their slots go to those who do."""
    with Coordinator(smollm2(), "--max-num-seqs", 16, "--max-model-len", 2048,
                     "--stalled-reader-timeout", 1) as coordinator:
        rank = ScoringRank(coordinator.address).serve()
        serving(coordinator)
        before = resident_bytes(coordinator.process.pid)
        begin = time.time()
        message = request([7] * 10, max_tokens=1000, ignore_eos=True, logprobs=20)
        # A connection of their own: what they do not take may hold up others on the same one.
        with grpc.insecure_channel(coordinator.address, [("grpc.use_local_subchannel_pool", 1),
                                                         ("grpc.http2.bdp_probe", 0)]) as channel:
            stub = pb_grpc.GenerationStub(channel)
            stalled = [stub.GenerateStream(message) for _ in range(STALLED)]
            healthy = request([7] * 10, max_tokens=200, ignore_eos=True)
            assert len(collect(coordinator.stub.GenerateStream(healthy))[0]) == 200
            # An idle engine is not enough: what is finished may still have a reader.
            wait_for(lambda: coordinator.log_text().count("has taken nothing") >= STALLED,
                     "all stalled readers to be let go", 60 + STALLED)
            check_idle(coordinator)
            for stream in stalled:
                try:
                    collect(stream)
                    raise AssertionError("a stalled stream came to its end")
                except grpc.RpcError as error:
                    assert error.code() == CODE.CANCELLED, error
        grown = resident_bytes(coordinator.process.pid) - before
        print(f"{STALLED} stalled readers let go in {time.time() - begin:.1f} s, no block held, "
              f"memory grew by {grown / 1e6:.1f} MB", flush=True)
        assert len(collect(coordinator.stub.GenerateStream(healthy))[0]) == 200
        rank.leave()


class SlowRank(PlayedRank):
    """Takes a fixed time for a step, whatever is in it: what can be served is known."""

    STEP_SECONDS = 0.01

    def answer(self, plan, token=5):
        time.sleep(self.STEP_SECONDS)
        super().answer(plan, token)


def bench(address, *flags):
    done = subprocess.run([str(BIN / "shardline"), "bench", "--address", address, "--json",
                           "--prompt-tokens", "20", "--answer-tokens", "40", "--answer-spread",
                           "0.5", "--first-token-objective", "3000", "--token-objective", "60",
                           *map(str, flags)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def overload():
    """At five times the load, as much good work is done as at the peak; the rest is refused."""
    slots = 8
    with Coordinator(smollm2(), "--max-num-seqs", slots, "--max-model-len", 512,
                     "--max-queued-requests", 2 * slots) as coordinator:
        rank = SlowRank(coordinator.address).serve()
        serving(coordinator)
        # The most good work of any number of clients, each tried for as long as the others.
        peak, count = {"goodput_requests_per_second": 0}, 100
        for clients in (slots, slots + slots // 2, 2 * slots):
            one = bench(coordinator.address, "--concurrency", clients, "--requests", count)
            assert one["completed"] == count, one
            count = max(count, int(one["requests_per_second"] * OVERLOAD_SECONDS / 2))
            peak = max(peak, one, key=lambda run: run["goodput_requests_per_second"])
        rate = 5 * peak["requests_per_second"]
        before = resident_bytes(coordinator.process.pid)
        over = bench(coordinator.address, "--rate", rate, "--requests",
                     int(rate * OVERLOAD_SECONDS), "--load-seed", 2)
        grown = resident_bytes(coordinator.process.pid) - before
        share = over["goodput_requests_per_second"] / peak["goodput_requests_per_second"]
        print(f"peak {peak['goodput_requests_per_second']:.1f} good requests/s; at {rate:.0f}/s for "
              f"{over['seconds']:.0f} s {over['goodput_requests_per_second']:.1f}, "
              f"{100 * share:.0f} %; {over['refused']} refused, first token p99 "
              f"{over['time_to_first_token_ms']['p99']:.0f} ms, memory grew by {grown / 1e6:.1f} MB",
              flush=True)
        assert over["failed"] == 0 and over["refused"] > over["requests"] / 2, over
        assert "the queue is full" in over["first_error"], over
        assert share >= 0.9, (peak, over)
        assert grown < 64e6, grown
        check_idle(coordinator)
        rank.leave()


def main():
    for check in (cancels, stalled_readers, overload):
        check()


if __name__ == "__main__":
    sys.exit(main())
