"""What a coordinator with a journal has accepted outlives its kill -9; ranks are played."""

import contextlib
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import grpc

from harness import (BIN, GOLDEN, Coordinator, collect, control_pb, error_of, pb, request, smollm2,
                     wait_for)
from played_rank import PlayedRank

CODE = grpc.StatusCode
FUZZ_SEEDS = GOLDEN.parent / "fuzz" / "seeds"


class Journaled:
    """A coordinator that is killed and started again at the same address, with the same journal."""

    def __init__(self, *flags):
        self.directory = tempfile.mkdtemp(prefix="shardline-journal.")
        self.flags = flags
        self.address = "127.0.0.1:0"
        self.rank = None
        self.start()

    def start(self):
        self.now = Coordinator(smollm2(), "--journal", self.directory, *self.flags,
                               listen=self.address)
        self.address = self.now.address

    def serve(self, token=5):
        self.rank = PlayedRank(self.address).serve(token)
        wait_for(lambda: self.now.status().serving, "the replica to serve")

    def kill(self, how=signal.SIGKILL):
        self.now.process.send_signal(how)
        self.now.process.wait(timeout=30)
        self.leave()
        self.now.__exit__(None, None, None)

    def restart(self):
        self.kill()
        self.start()

    def leave(self):
        if self.rank is not None:
            self.rank.leave()
        self.rank = None

    def close(self):
        self.leave()
        self.now.__exit__(None, None, None)
        shutil.rmtree(self.directory)

    def bytes(self):
        size = 0
        for path in pathlib.Path(self.directory).glob("*.journal"):
            with contextlib.suppress(FileNotFoundError):  # rewritten just now
                size += path.stat().st_size
        return size


def named(name, prompt, next_index=0, linger=0, **sampling):
    message = request(prompt, ignore_eos=True, **sampling)
    message.request_id = name
    message.linger_seconds = linger
    if next_index:
        message.next_index.append(next_index)
    return message


def some_tokens(stream, count):
    """The stream's first tokens; it is read no further."""
    tokens = []
    while len(tokens) < count:
        tokens.extend(next(stream).token_ids)
    return tokens


def ended(stream):
    with contextlib.suppress(grpc.RpcError):
        collect(stream)


class CountingRank(PlayedRank):
    """Its tokens tell their place in the answer: 100, 101, ... After some steps it is mute."""

    def __init__(self, address, steps):
        self.steps, self.sampled = steps, 0
        self.seeds, self.begun = set(), []
        super().__init__(address)

    def answer(self, plan, token=None):
        self.seeds.update(start.sampling.seed for start in plan.starts)
        self.begun += [list(work.tokens) for work in plan.work if work.position == 0]
        if self.steps == 0:
            return
        sampled = [control_pb.SampledToken(
            slot=work.slot, token=98 + work.position + max(1, len(work.tokens)))
            for work in plan.work if work.sample]
        self.say(result=control_pb.StepResult(epoch=plan.epoch, step=plan.step, sampled=sampled))
        self.sampled += len(sampled)
        self.steps -= 1


def goes_on(coordinator):
    """In the middle of two answers, twice: nothing is missing, repeated or decided anew."""
    def both():
        message = named("a", [7, 8], linger=60, max_tokens=9, temperature=1.0, n=2)
        message.next_index.extend(len(one) for one in tokens)
        return message

    seeds, tokens = set(), ([], [])
    for life in range(3):
        had = sorted(len(one) for one in tokens)
        rank = coordinator.rank = CountingRank(coordinator.address, steps=4 if life < 2 else -1)
        rank.serve()
        wait_for(lambda: coordinator.now.status().serving, "the replica to serve")
        stream = coordinator.now.stub.GenerateStream(both())
        if life < 2:
            wait_for(lambda: rank.steps == 0, "some steps")
        first = next(stream)
        assert first.request_id == "a", first
        tokens[first.index].extend(first.token_ids)
        while life == 2 or sum(len(one) for one in tokens) < sum(had) + rank.sampled:
            part = next(stream, None)
            if part is None:
                break
            tokens[part.index].extend(part.token_ids)
        seeds |= rank.seeds
        # Prompt and tokens of each answer were computed again.
        begun = sorted(len(one) - 2 for one in rank.begun)
        assert begun == had and all(
            one == [7, 8, *range(100, 98 + len(one))] for one in rank.begun), (had, rank.begun)
        coordinator.restart()
        ended(stream)
    assert len(seeds) == 2 and tokens == ([*range(100, 109)],) * 2, (seeds, tokens)
    tokens = tokens[0]
    # The answers are over, and still kept for who asks.
    whole = named("a", [7, 8], linger=60, max_tokens=9, temperature=1.0, n=2)
    answer = coordinator.now.stub.Generate(whole)
    assert list(answer.token_ids) == tokens == list(answer.further_answers[0].token_ids), answer
    assert answer.finish_reason == pb.FINISH_REASON_LENGTH and answer.usage.completion_tokens == 18
    code, text, _ = error_of(lambda: coordinator.now.stub.Generate(named("a", [7], max_tokens=9)))
    assert code == CODE.ALREADY_EXISTS, (code, text)


def waits_in_the_queue(coordinator):
    """Accepted, and nothing more: no token, no replica at the time of the restart."""
    coordinator.serve()
    coordinator.leave()
    wait_for(lambda: not coordinator.now.status().serving, "the loss")
    coordinator.rank = PlayedRank(coordinator.address, launch="mute")  # takes steps, and is silent
    coordinator.rank.start()
    wait_for(lambda: coordinator.now.status().serving, "the replica to serve")
    streams = [coordinator.now.stub.GenerateStream(named(f"q{i}", [i + 1], max_tokens=4))
               for i in range(20)]
    assert [next(stream).request_id for stream in streams] == [f"q{i}" for i in range(20)]
    coordinator.restart()
    for stream in streams:
        code, _, _ = error_of(lambda: collect(stream))
        assert code == CODE.UNAVAILABLE, code
    wait_for(lambda: coordinator.now.status().queue.waiting == 20, "the queue")
    # One is cancelled by its id while it waits, one more is new, to a server without replicas.
    coordinator.now.stub.Cancel(pb.CancelRequest(request_id="q3"))
    code, text, _ = error_of(lambda: coordinator.now.stub.Generate(request([1])))
    assert code == CODE.UNAVAILABLE and "no replica" in text, (code, text)
    coordinator.restart()
    wait_for(lambda: coordinator.now.status().queue.waiting == 19, "the queue")
    coordinator.serve()
    for i in range(20):
        tokens, _, last = collect(coordinator.now.stub.GenerateStream(
            named(f"q{i}", [i + 1], max_tokens=4)))
        assert tokens == ([] if i == 3 else [5] * 4), (i, tokens)
        assert (last.finish_reason == pb.FINISH_REASON_CANCELLED) == (i == 3), last


def is_forgotten(coordinator):
    """Who does not come back in time is not waited for; what is read to its end is not kept."""
    coordinator.serve()
    assert list(coordinator.now.stub.Generate(named("read", [1], max_tokens=2)).token_ids) == [5, 5]
    coordinator.now.stub.Generate(named("kept", [1], linger=60, max_tokens=2))
    coordinator.leave()
    coordinator.rank = PlayedRank(coordinator.address, launch="mute")
    wait_for(lambda: not coordinator.now.status().serving, "the loss")
    coordinator.rank.start()
    wait_for(lambda: coordinator.now.status().serving, "the replica to serve")
    stream = coordinator.now.stub.GenerateStream(named("left", [1], max_tokens=4))
    next(stream)
    coordinator.restart()
    ended(stream)
    wait_for(lambda: coordinator.now.status().queue.waiting == 1, "the one that is awaited")
    wait_for(lambda: coordinator.now.status().queue.waiting == 0, "its end (--journal-keep)")
    coordinator.serve(token=6)
    answers = {name: coordinator.now.stub.Generate(named(name, [1], linger=linger, max_tokens=tokens))
               for name, linger, tokens in (("read", 0, 2), ("kept", 60, 2), ("left", 0, 4))}
    tokens = {name: list(answer.token_ids) for name, answer in answers.items()}
    assert tokens == {"read": [6, 6], "kept": [5, 5], "left": [6] * 4}, tokens


def stops_in_order(coordinator):
    """SIGTERM: what is not finished in time goes on after the next start."""
    coordinator.rank = PlayedRank(coordinator.address)
    coordinator.rank.start()
    wait_for(lambda: coordinator.now.status().serving, "the replica to serve")
    stream = coordinator.now.stub.GenerateStream(named("s", [1, 2], max_tokens=5))
    plan = coordinator.rank.hear().step
    coordinator.rank.answer(plan, 77)
    assert some_tokens(stream, 1) == [77]
    coordinator.kill(signal.SIGTERM)
    code, _, _ = error_of(lambda: collect(stream))
    assert code == CODE.UNAVAILABLE, code
    coordinator.start()
    coordinator.serve()
    tokens, _, _ = collect(coordinator.now.stub.GenerateStream(named("s", [1, 2], 1, max_tokens=5)))
    assert tokens == [5] * 4 and list(coordinator.rank.plans[0].work[0].tokens) == [1, 2, 77]


def full_disk(coordinator):
    """New requests are refused, what runs is not disturbed, and it passes."""
    coordinator.rank = rank = PlayedRank(coordinator.address)
    rank.start()
    wait_for(lambda: coordinator.now.status().serving, "the replica to serve")
    stream = coordinator.now.stub.GenerateStream(named("runs", [1, 2], max_tokens=40))
    plans = [rank.hear().step]
    pid, unlimited = coordinator.now.process.pid, resource.RLIM_INFINITY

    def go_on(count):
        for _ in range(count):
            rank.answer(plans[-1], 9)
            plans.append(rank.hear().step)

    go_on(3)
    tokens = some_tokens(stream, 3)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (coordinator.bytes() + 10, unlimited))
    go_on(20)
    tokens += some_tokens(stream, 20)
    code, text, metadata = error_of(
        lambda: coordinator.now.stub.Generate(named("refused", [3], max_tokens=2)))
    assert code == CODE.RESOURCE_EXHAUSTED and coordinator.directory in text, (code, text)
    assert int(metadata["grpc-retry-pushback-ms"]) > 0, metadata
    now = coordinator.now.status()
    assert now.queue.running == 1 and now.queue.waiting == 0, now
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
    second = coordinator.now.stub.GenerateStream(named("accepted", [3], max_tokens=2))
    assert next(second).request_id == "accepted"
    go_on(3)
    tokens += some_tokens(stream, 3)
    coordinator.restart()
    ended(stream), ended(second)
    # The gap is computed again: with the same model, to the same tokens.
    coordinator.serve(token=9)
    rest, _, _ = collect(coordinator.now.stub.GenerateStream(
        named("runs", [1, 2], len(tokens), max_tokens=40)))
    assert tokens + rest == [9] * 40, (tokens, rest)
    answer = coordinator.now.stub.Generate(named("accepted", [3], max_tokens=2))
    assert len(answer.token_ids) == 2, answer


def stays_small(coordinator):
    coordinator.serve()
    streams = [coordinator.now.stub.GenerateStream(named(f"live{i}", [i + 1], linger=60, max_tokens=3))
               for i in range(3)]
    for stream in streams:
        collect(stream)
    most = 0
    for i in range(300):
        coordinator.now.stub.Generate(named(f"r{i}", [1] * 50, max_tokens=3))
        most = max(most, coordinator.bytes())
    assert most < 3 * 8192, most
    coordinator.restart()
    for i in range(3):
        answer = coordinator.now.stub.Generate(named(f"live{i}", [i + 1], linger=60, max_tokens=3))
        assert list(answer.token_ids) == [5] * 3, answer


def wrong_starts(coordinator):
    def start(model, directory=coordinator.directory):
        return subprocess.run([BIN / "shardline-coordinator", model, "--listen", "127.0.0.1:0",
                               "--journal", directory], capture_output=True, text=True, timeout=30)

    coordinator.serve()
    for i in range(3):
        coordinator.now.stub.Generate(named(f"w{i}", [1], linger=60, max_tokens=2))
    second = start(smollm2())
    assert second.returncode == 2 and "another process" in second.stderr, second
    coordinator.kill()
    model = pathlib.Path(coordinator.directory) / "other.gguf"
    shutil.copy(FUZZ_SEEDS / "gguf" / "llama", model)
    other = start(model)
    assert other.returncode == 2 and "another checkpoint" in other.stderr, other
    segment = next(pathlib.Path(coordinator.directory).glob("*.journal"))
    whole = segment.read_bytes()
    segment.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    damaged = start(smollm2())
    assert damaged.returncode == 2 and f"{segment}, offset 16" in damaged.stderr, damaged
    file = pathlib.Path(coordinator.directory) / "file"
    file.touch()
    bad = start(smollm2(), file)
    assert bad.returncode != 0 and str(file) in bad.stderr, bad
    segment.write_bytes(whole[:-1])
    coordinator.start()
    assert "cut off" in coordinator.now.log_text()


def main():
    checks = [(goes_on, ()), (waits_in_the_queue, ("--journal-sync",)),
              (is_forgotten, ("--journal-keep", 1)), (stops_in_order, ("--drain-timeout", 1)),
              (full_disk, ()), (stays_small, ("--journal-segment-bytes", 8192)), (wrong_starts, ())]
    for check, flags in checks:
        begin = time.time()
        coordinator = Journaled(*flags)
        try:
            check(coordinator)
        except BaseException:
            if not coordinator.now.log.closed:
                print(coordinator.now.log_text(), file=sys.stderr)
            raise
        finally:
            coordinator.close()
        print(f"{check.__name__}: ok, {time.time() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
