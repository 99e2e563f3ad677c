"""Mixtral on two hosts through mpirun, with the experts spread over them. Tokens equal those of one
rank, and of what travels between the hosts, counters and the link itself agree within 10 % with
what the routing says must travel."""

import concurrent.futures
import pathlib
import random
import shutil
import sys
import tempfile
import time

import two_hosts
from harness import Cluster, admin_pb, collect, request
from mixtral import Mixtral

FLAGS = ["--max-model-len", 512, "--max-num-seqs", 4, "--max-num-batched-tokens", 128]
EXPERT_PARALLEL = ["--data-parallel-size", 2, "--enable-expert-parallel"]
GIB = 1 << 30


def answer(stub, prompt, count):
    return collect(stub.GenerateStream(request(prompt, max_tokens=count, ignore_eos=True)))[0]


def together(stub, prompts, count):
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(lambda prompt: answer(stub, prompt, count), prompts))


def traffic(cluster):
    """(tokens, bytes) sent by each host's rank."""
    load = cluster.admin.GetExpertLoad(admin_pb.GetExpertLoadRequest())
    return [(rank.tokens_sent, rank.bytes_sent) for rank in load.ranks]


def within(measured, expected, what):
    print(f"  {what}: {measured} measured, {expected} expected, {measured / expected:.3f}",
          flush=True)
    assert abs(measured - expected) <= 0.1 * expected, what


def check_traffic(cluster, model, prompt, count):
    """One request alone: it runs in one host's data-parallel group, and the tokens that chose an
    expert of the other host's visit it. Experts are placed round-robin."""
    before, link_before = traffic(cluster), two_hosts.link_bytes()
    tokens = answer(cluster.stub, prompt, count)
    link_after, after = two_hosts.link_bytes(), traffic(cluster)
    sent = [b[0] - a[0] for a, b in zip(before, after)]
    home = max((0, 1), key=lambda host: sent[host])
    assert sent[1 - home] == 0, sent
    processed = prompt + tokens[:-1]
    visits = sum(int((chosen % 2 != home).any(axis=1).sum())
                 for chosen in model.forward(processed)[1])
    row = model.hidden * 4
    out, back = visits * (row + model.per_token * 8), visits * row
    within(sent[home], visits, "tokens that visited the other host")
    within(after[home][1] - before[home][1], out, "bytes sent to experts")
    within(after[1 - home][1] - before[1 - home][1], back, "bytes sent back")
    sent_here, received_here = (b - a for a, b in zip(link_before, link_after))
    ways = (out, back) if home == 0 else (back, out)
    within(sent_here, ways[0], "bytes on the link, out")
    within(received_here, ways[1], "bytes on the link, in")
    per_token = (sent_here + received_here) / len(processed)
    print(f"  {per_token / 1e3:.1f} kB a token on the link", flush=True)


def check(model, there, prompts, count, long_prompt, long_count):
    begin = time.time()
    flags = ["--dtype", {"F32": "float32", "BF16": "bfloat16"}[model.dtype], "--compute-dtype",
             "float32", *FLAGS]
    with Cluster(model.directory, "--threads", 2, *flags) as cluster:
        expected = together(cluster.stub, prompts, count)
    with two_hosts.Cluster(there, model.directory, *flags, *EXPERT_PARALLEL) as cluster:
        assert together(cluster.stub, prompts, count) == expected
        check_traffic(cluster, model, long_prompt, long_count)
    print(f"  {len(prompts)} answers of {count} tokens equal one rank's, "
          f"{time.time() - begin:.1f} s", flush=True)


def numbers(generator, count, vocabulary):
    return [generator.randrange(vocabulary) for _ in range(count)]


def available_memory():
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return 0


def inside(there):
    generator = random.Random(11)
    with tempfile.TemporaryDirectory(prefix="shardline-hosts.") as directory:
        print("tiny Mixtral", flush=True)
        tiny = Mixtral(f"{directory}/tiny", "F32", layers=3, hidden=768, heads=12, kv_heads=4,
                       feed_forward=96, experts=7, vocabulary=211, scale=0.05)
        prompts = [numbers(generator, length, 211) for length in (1, 9, 33, 70)]
        # Steps of many tokens: with rows this short the headers of messages would count else.
        check(tiny, there, prompts, 24, numbers(generator, 384, 211), 1)

        # Two layers of Mixtral-8x7B: 6.3 GB in the file, and as much in the ranks.
        enough = available_memory() > 15 * GIB and shutil.disk_usage(directory).free > 8 * GIB
        feed_forward = 14336 if enough else 1792
        print("Mixtral-8x7B's shape, two layers" if enough else
              "Mixtral-8x7B's shape, two layers, experts an eighth as wide: 15 GiB of free memory "
              "and 8 GiB of disk are not there for whole ones", flush=True)
        wide = Mixtral(f"{directory}/mixtral-8x7b", "BF16", layers=2, hidden=4096, heads=32,
                       kv_heads=8, feed_forward=feed_forward, experts=8, vocabulary=32000,
                       scale=0.02)
        prompts = [numbers(generator, length, 32000) for length in (3, 12, 20)]
        check(wide, there, prompts, 8, numbers(generator, 40, 32000), 16)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(inside(sys.argv[1]))
    sys.exit(two_hosts.run_inside(__file__))
