"""The coordinator with ranks that the test plays: wrong, late, silent and dead ones."""

import signal
import socket
import subprocess
import sys
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness import admin_pb, Coordinator, collect, error_of, pb, pb_grpc, request, smollm2, wait_for
from played_rank import PlayedRank

CODE = grpc.StatusCode
SERVING = health_pb2.HealthCheckResponse.SERVING


def health(coordinator):
    stub = health_pb2_grpc.HealthStub(coordinator.channel)
    return stub.Check(health_pb2.HealthCheckRequest()).status


def serving(coordinator):
    wait_for(lambda: health(coordinator) == SERVING, "the replica to serve")


def refused_ranks():
    """A rank that does not fit is told why; the ranks that do are not disturbed."""
    with Coordinator(smollm2(), "--tensor-parallel-size", 2, "--attach-timeout", 1) as coordinator:
        first = PlayedRank(coordinator.address, rank=0, world=2)
        wait_for(lambda: coordinator.status().replicas[0].ranks[0].attached, "rank 0 to attach")
        cases = [
            (dict(rank=0, world=3), CODE.FAILED_PRECONDITION, "needs 2 ranks"),
            (dict(rank=2, world=2), CODE.INVALID_ARGUMENT, "rank 2 is not below"),
            (dict(rank=0, world=2), CODE.FAILED_PRECONDITION, "attached already"),
            (dict(rank=1, world=2, launch="other"), CODE.FAILED_PRECONDITION, "another launch"),
            (dict(rank=1, world=2, version=99), CODE.FAILED_PRECONDITION, "protocol version 99"),
        ]
        for what, code, named in cases:
            rank = PlayedRank(coordinator.address, **what)
            end = rank.end()
            assert end[0] == code and named in end[1], (what, end)
            rank.leave()
        now = coordinator.status().replicas[0]
        assert now.epoch == 1 and now.ranks[0].attached and not now.last_error, now
        # Rank 1 never comes.
        end = first.end()
        assert end[0] == CODE.DEADLINE_EXCEEDED and "rank 1 did not attach" in end[1], end
        assert "--attach-timeout" in coordinator.status().replicas[0].last_error
        first.leave()
    with Coordinator(smollm2()) as coordinator:
        for blocks, named in ((1, "--max-model-len"), (2**32 - 1, "4294967295 KV blocks")):
            rank = PlayedRank(coordinator.address)
            assert rank.hear().HasField("load")
            rank.say(loaded={"kv_blocks": blocks})
            end = rank.end()
            assert end[0] != CODE.OK and named in end[1], (blocks, end)
            rank.leave()
        assert health(coordinator) != SERVING


def lost_replica():
    """Requests wait for the next ranks, or for their deadline; not a token is lost or repeated."""
    with Coordinator(smollm2(), "--step-timeout", 1) as coordinator:
        rank = PlayedRank(coordinator.address)
        assert health(coordinator) != SERVING
        rank.start()
        serving(coordinator)
        stream = coordinator.stub.GenerateStream(request([7, 8], max_tokens=9, ignore_eos=True))
        plan = rank.hear().step
        assert list(plan.work[0].tokens) == [7, 8], plan
        rank.answer(plan, token=100)
        assert list(next(stream).token_ids) == [100]
        late = coordinator.stub.Generate.future(request([9]), timeout=1.5)
        end = rank.end()  # silent from here on
        assert end[0] == CODE.DEADLINE_EXCEEDED and "--step-timeout" in end[1], end
        rank.leave()
        assert health(coordinator) != SERVING
        now = coordinator.status()
        assert now.replicas[0].epoch == 2 and "hangs" in now.replicas[0].last_error, now
        assert now.queue.running == 0 and now.queue.waiting == 2, now
        code, _, _ = error_of(late.result)
        assert code == CODE.DEADLINE_EXCEEDED, code
        wait_for(lambda: coordinator.status().queue.waiting == 1, "the late one to leave the queue")

        rank = PlayedRank(coordinator.address, launch="second").serve()
        tokens, _, last = collect(stream)
        assert tokens == [5] * 8 and last.usage.completion_tokens == 9, (tokens, last)
        # The new ranks were told all tokens that had been sent.
        assert list(rank.plans[0].work[0].tokens) == [7, 8, 100], rank.plans[0]
        wait_for(lambda: coordinator.status().counters.requests_finished == 1, "the count")
        rank.leave()
        wait_for(lambda: coordinator.status().replicas[0].epoch == 3, "the loss of the second ranks")

        # A rank that answers what was not asked cannot be trusted.
        rank = PlayedRank(coordinator.address, launch="third")
        rank.start()
        serving(coordinator)
        future = coordinator.stub.Generate.future(request([7]))
        rank.hear()
        rank.say(result={"epoch": 3, "step": 77})
        end = rank.end()
        assert end[0] == CODE.INTERNAL and "step 77" in end[1], end
        rank.leave()
        future.cancel()


def silent_ranks():
    """A rank without heartbeats is lost, sooner if its process is here and stopped; others are not."""
    here = socket.gethostname()
    for host, stopped, least, most in (("stage", True, 3.5, 5), (here, False, 3.5, 5),
                                       (here, True, 0.6, 1)):
        process = subprocess.Popen(["sleep", "60"])
        with Coordinator(smollm2(), "--replicas", 2) as coordinator:
            alive = PlayedRank(coordinator.address, replica="0", host=here).serve()
            silent = PlayedRank(coordinator.address, replica="1", host=host, pid=process.pid).serve()
            wait_for(lambda: sum(r.state == 4 for r in coordinator.status().replicas) == 2, "both")
            if stopped:
                process.send_signal(signal.SIGSTOP)
            begin = time.time()
            silent.fall_silent()
            silent.thread.join()  # ends with its stream
            seconds = time.time() - begin
            lost = coordinator.status().replicas[1]
            assert least < seconds < most, (host, stopped, seconds)
            assert "--heartbeat-timeout" in lost.last_error and host in lost.last_error, lost
            assert coordinator.status().replicas[0].epoch == 1 and health(coordinator) == SERVING
            silent.leave()
            alive.leave()
        process.kill()
        process.wait()


def fenced():
    """What ranks say for a life that is over, or for another replica, changes nothing."""
    with Coordinator(smollm2(), "--replicas", 2) as coordinator:
        liar, honest = (PlayedRank(coordinator.address, replica=name) for name in "01")
        honest.serve()
        liar.start()
        wait_for(lambda: sum(r.state == 4 for r in coordinator.status().replicas) == 2, "both")
        coordinator.admin.Drain(admin_pb.DrainRequest(replica="1"))
        future = coordinator.stub.Generate.future(request([7], max_tokens=3, ignore_eos=True))
        plan = liar.hear().step
        coordinator.admin.Undrain(admin_pb.UndrainRequest(replica="1"))
        liar.say(result={"epoch": 2, "step": 1})  # the other replica's epoch
        end = liar.end()
        assert end[0] == CODE.INTERNAL and "epoch 2 in epoch 1" in end[1], end
        liar.answer(plan, token=99)  # too late
        assert list(future.result().token_ids) == [5, 5, 5]
        assert coordinator.status().replicas[1].epoch == 2
        liar.leave()
        honest.leave()


def slow_reader_and_drain():
    """What nobody reads is not lost: the call stays open, and a stop waits for it."""
    with Coordinator(smollm2(), "--drain-timeout", 20) as coordinator:
        word = " responsibilities"  # a long one: the answers must not fit the connection's buffers
        token = coordinator.stub.Tokenize(pb.TokenizeRequest(text=word)).token_ids
        assert len(token) == 1, token
        rank = PlayedRank(coordinator.address).serve(token[0])
        serving(coordinator)
        channel = grpc.insecure_channel(coordinator.address, [("grpc.http2.bdp_probe", 0)])
        streams = [pb_grpc.GenerationStub(channel).GenerateStream(
            request([7], max_tokens=5000, ignore_eos=True)) for _ in range(2)]
        wait_for(lambda: coordinator.status().counters.requests_finished == 2, "the answers", 60)
        now = coordinator.status()
        assert now.queue.running == 0 and now.replicas[0].kv_blocks_used == 0, now
        coordinator.process.send_signal(signal.SIGTERM)
        wait_for(lambda: health(coordinator) != SERVING, "the stop to begin")
        code, text, _ = error_of(lambda: coordinator.stub.Generate(request([7])))
        assert code == CODE.UNAVAILABLE and "shutting down" in text, (code, text)
        for stream in streams:
            tokens, text, last = collect(stream)
            assert len(tokens) == 5000 and text == word * 5000 and last.usage.completion_tokens == 5000, last
        channel.close()
        assert coordinator.process.wait(timeout=10) == 0
        rank.leave()


def cut_off():
    """What is not done when the drain time is over ends with UNAVAILABLE; the exit is orderly."""
    with Coordinator(smollm2(), "--drain-timeout", 1, "--max-num-seqs", 1) as coordinator:
        rank = PlayedRank(coordinator.address)
        rank.start()
        serving(coordinator)
        calls = [coordinator.stub.Generate.future(request([7])) for _ in range(2)]
        wait_for(lambda: coordinator.status().counters.requests_accepted == 2, "both requests")
        begin = time.time()
        coordinator.process.send_signal(signal.SIGTERM)
        for call in calls:
            code, text, _ = error_of(call.result)
            assert code == CODE.UNAVAILABLE and "send it again" in text, (code, text)
        assert rank.end() == (CODE.OK, "")
        assert coordinator.process.wait(timeout=10) == 0
        assert time.time() - begin < 4, time.time() - begin
        rank.leave()


def main():
    for check in (refused_ranks, lost_replica, silent_ranks, fenced, slow_reader_and_drain, cut_off):
        begin = time.time()
        check()
        print(f"{check.__name__}: ok, {time.time() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
