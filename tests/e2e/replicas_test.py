"""Several replicas: one is killed in mid-decode, drained, and of another layout."""

import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import time

from harness import BIN, Cluster, admin_pb, error_of, processes_of, request, smollm2, wait_for
from ranks import Ranks

import grpc

SERVING = 4
STREAMS, TOKENS = 4, 80  # on each replica


def replica(cluster, name):
    return next(r for r in cluster.status().replicas if r.name == name)


def command(cluster, *arguments):
    return subprocess.run([str(BIN / "shardline"), *arguments, "--address", cluster.address],
                          capture_output=True, text=True, timeout=60)


class Stream:
    """An answer and when each of its tokens came."""

    def __init__(self, pool, cluster, message):
        self.tokens, self.times = [], []
        self.future = pool.submit(self.run, cluster.stub.GenerateStream(message))

    def run(self, stream):
        for part in stream:
            self.tokens.extend(part.token_ids)
            self.times.extend([time.time()] * len(part.token_ids))

    def gaps(self, since):
        return [b - a for a, b in zip(self.times, self.times[1:]) if b > since]


def p99(streams, since):
    gaps = sorted(gap for stream in streams for gap in stream.gaps(since))
    return gaps[min(len(gaps) - 1, len(gaps) * 99 // 100)]


def start_on(pool, cluster, name, other, batch):
    """Streams that run on the replica: the other takes nothing meanwhile."""
    before = replica(cluster, name).running
    cluster.admin.Drain(admin_pb.DrainRequest(replica=other))
    streams = [Stream(pool, cluster, message) for message in batch]
    wait_for(lambda: replica(cluster, name).running == before + len(batch), "streams to run")
    cluster.admin.Undrain(admin_pb.UndrainRequest(replica=other))
    return streams


def killed_in_mid_decode(cluster):
    """The streams of the lost one go on; the others' tokens come no later than the load explains."""
    batch = [request([100 + i, 7, 9 * i], max_tokens=TOKENS, ignore_eos=True)
             for i in range(2 * STREAMS)]
    with concurrent.futures.ThreadPoolExecutor(2 * STREAMS) as pool:
        # What the extra load explains: all streams on one replica from the beginning.
        control = start_on(pool, cluster, "0", "1", batch)
        for stream in control:
            stream.future.result()
        loaded = p99(control, control[0].times[5])
        staying = start_on(pool, cluster, "0", "1", batch[:STREAMS])
        losing = start_on(pool, cluster, "1", "0", batch[STREAMS:])
        wait_for(lambda: all(len(s.tokens) > 5 for s in staying + losing), "tokens")
        killed = time.time()
        os.kill(replica(cluster, "1").ranks[0].pid, signal.SIGKILL)
        for stream in staying + losing:
            stream.future.result()
    for stream, undisturbed in zip(staying + losing, control):
        assert stream.tokens == undisturbed.tokens, (stream.tokens, undisturbed.tokens)
    assert cluster.status().counters.requests_resumed >= STREAMS
    after = p99(staying, killed)
    pause = max(max(stream.gaps(killed)) for stream in losing)
    print(f"inter-token p99: all streams on one replica {1e3 * loaded:.0f} ms; the others' after a "
          f"kill {1e3 * after:.0f} ms; the lost replica's streams paused {1e3 * pause:.0f} ms at most",
          flush=True)
    # The steps that compute the lost ones' tokens again are longer than a decode, once.
    assert after <= 3 * loaded, (after, loaded)
    assert pause < 2, pause


def drained(cluster):
    wait_for(lambda: replica(cluster, "1").state == SERVING, "up to start the replica again", 60)
    running = cluster.stub.Generate.future(request([5], max_tokens=100, ignore_eos=True))
    wait_for(lambda: cluster.status().queue.running == 1, "a request to run")
    for name in ("0", "1"):
        done = command(cluster, "drain", name, "--wait")
        assert done.returncode == 0 and f"replica {name} takes nothing new; it runs 0" in done.stdout, done
    assert len(running.result().token_ids) == 100
    code, text, _ = error_of(lambda: cluster.stub.Generate(request([5])))
    assert code == grpc.StatusCode.UNAVAILABLE and "draining" in text, (code, text)
    shown = command(cluster, "status")
    assert shown.returncode == 3 and "replica    1: serving, draining" in shown.stdout, shown
    assert command(cluster, "undrain", "1").returncode == 0
    cluster.stub.Generate(request([5]))
    assert command(cluster, "status").returncode == 0
    unknown = command(cluster, "drain", "nine")
    assert unknown.returncode == 2 and "there are: 0, 1" in unknown.stderr, unknown


def another_layout_joins(cluster):
    """A pipeline beside copies of one rank: ranks say what they are; and it answers the same."""
    expected = list(cluster.stub.Generate(request("One two three", max_tokens=12)).token_ids)
    ranks = Ranks(cluster.address, 2, "--replica", "pipeline", "--pipeline-parallel-size", 2,
                  "--ranks-on-host", 4)
    try:
        wait_for(lambda: any(r.name == "pipeline" and r.state == SERVING
                             for r in cluster.status().replicas), "the new replica", 60)
        for name in ("0", "1"):
            assert command(cluster, "drain", name).returncode == 0
        assert list(cluster.stub.Generate(request("One two three", max_tokens=12)).token_ids) == expected
        now = replica(cluster, "pipeline")
        assert now.pipeline_parallel_size == 2 and now.steps > 0, now
        assert [rank.stage for rank in now.ranks] == [0, 1], now
    finally:
        ranks.kill()
    wrong = Ranks(cluster.address, 1, "--replica", "bad name!")
    code, output = wrong.end()
    assert code == 3 and "a replica's name" in output, (code, output)


def devices_of_their_own(cluster):
    """Of a host's GPUs each replica's ranks take those after the ranks before."""
    firsts = [re.search(r"--replica (\d+) .*--first-rank-on-host (\d+)", command)
              for _, command in processes_of(cluster.address) if "bin/shardline-worker " in command]
    assert {match.groups() for match in firsts} == {("0", "0"), ("1", "1")}, firsts


def main():
    with Cluster(smollm2(), "--replicas", 2, "--max-model-len", 512) as cluster:
        for check in (devices_of_their_own, killed_in_mid_decode, drained, another_layout_joins):
            begin = time.time()
            check(cluster)
            print(f"{check.__name__}: ok, {time.time() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
