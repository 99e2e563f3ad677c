"""A prefix that 100 requests share is computed once, and the answers are those without a cache."""

import concurrent.futures
import random
import sys

from harness import Cluster, pb, request, smollm2

REQUESTS, PREFIX, OWN, COMPARED = 100, 1000, 12, 10


def messages():
    rng = random.Random(3)
    prefix = [rng.randrange(300, 49000) for _ in range(PREFIX)]
    made = []
    for i in range(REQUESTS):
        own = [rng.randrange(300, 49000) for _ in range(OWN)]
        sampling = {} if i % 2 == 0 else {"temperature": 1.0, "seed": i}
        made.append(request(prefix + own, max_tokens=6, ignore_eos=True, **sampling))
    return made


def answers(cluster, batch):
    with concurrent.futures.ThreadPoolExecutor(len(batch)) as pool:
        return [list(r.token_ids) for r in pool.map(cluster.stub.Generate, batch)]


def main():
    batch = messages()
    with Cluster(smollm2(), "--max-model-len", 2048, "--kv-cache-memory", 100_000_000) as cluster:
        cached = answers(cluster, batch)
        now = cluster.status().replicas[0]
        total = REQUESTS * (PREFIX + OWN)
        saved = 1 - now.prompt_tokens_computed / total
        print(f"{REQUESTS} requests at once, {PREFIX} tokens shared: {now.prompt_tokens_computed} of "
              f"{total} prompt tokens computed, {100 * saved:.1f} % saved", flush=True)
        assert saved >= 0.9, now
        assert now.kv_blocks_used == 0, now
        # Another salt finds nothing of it.
        salted = pb.GenerateRequest()
        salted.CopyFrom(batch[0])
        salted.cache_salt = "another tenant"
        assert list(cluster.stub.Generate(salted).token_ids) == cached[0]
        computed = cluster.status().replicas[0].prompt_tokens_computed - now.prompt_tokens_computed
        assert computed == PREFIX + OWN, computed
    with Cluster(smollm2(), "--max-model-len", 2048, "--kv-cache-memory", 100_000_000,
                 "--enable-prefix-caching=false") as cluster:
        plain = answers(cluster, batch[:COMPARED])
        now = cluster.status().replicas[0]
        assert now.prompt_tokens_computed == COMPARED * (PREFIX + OWN), now
        assert now.prompt_tokens_cached == 0, now
    assert plain == cached[:COMPARED], (plain, cached[:COMPARED])
    print(f"{COMPARED} of them without the cache: the same tokens", flush=True)


if __name__ == "__main__":
    sys.exit(main())
