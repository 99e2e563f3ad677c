"""Each bad field is refused with an error that names it, and everybody else is served on."""

import sys
import time

import grpc

from harness import Cluster, error_of, pb, request, smollm2, wait_for

CODE = grpc.StatusCode
LENGTH = 256  # --max-model-len
VOCABULARY = 49152
NAN, INFINITY = float("nan"), float("inf")


def changed(prompt="Hi", sampling=None, **fields):
    message = request(prompt, **(sampling or {}))
    message.MergeFrom(pb.GenerateRequest(**fields))
    return message


def chat(*messages):
    message = request("")
    message.chat.SetInParent()
    for role, content in messages:
        message.chat.messages.add(role=role, content=content)
    return message


# (request, what its error names)
INVALID = [
    *((changed(sampling={"temperature": t}), "sampling.temperature") for t in (NAN, INFINITY, -0.1)),
    *((changed(sampling={"top_p": p}), "sampling.top_p") for p in (NAN, 0, -1, 1.01)),
    *((changed(sampling={"min_p": p}), "sampling.min_p") for p in (NAN, -0.01, 1.5)),
    (changed(sampling={"max_tokens": 0}), "sampling.max_tokens"),
    *((changed(sampling={"repetition_penalty": p}), "sampling.repetition_penalty")
      for p in (NAN, 0, -1, 100.5)),
    *((changed(sampling={kind: p}), f"sampling.{kind}")
      for kind in ("presence_penalty", "frequency_penalty") for p in (NAN, INFINITY, -2.1, 2.1)),
    *((changed(sampling={"logit_bias": {5: b}}), "sampling.logit_bias")
      for b in (NAN, -INFINITY, -101, 100.5)),
    (changed(sampling={"logit_bias": {VOCABULARY: 1}}), "sampling.logit_bias"),
    (changed(sampling={"logit_bias": {2**32 - 1: 1}}), "sampling.logit_bias"),
    (changed(sampling={"logit_bias": {i: 1 for i in range(4097)}}), "sampling.logit_bias"),
    (changed(sampling={"bad_words": [""]}), "sampling.bad_words"),
    (changed(sampling={"bad_words": ["x" * 1025]}), "sampling.bad_words"),
    (changed(sampling={"bad_words": ["x"] * 129}), "sampling.bad_words"),
    (changed(sampling={"min_tokens": 9, "max_tokens": 8}), "sampling.min_tokens"),
    (changed(sampling={"min_tokens": LENGTH + 1, "max_tokens": 2**32 - 1}), "sampling.min_tokens"),
    *((changed(sampling={"n": n}), "sampling.n") for n in (0, 65, 2**32 - 1)),
    *((changed(sampling={kind: k}), f"sampling.{kind}")
      for kind in ("logprobs", "prompt_logprobs") for k in (21, 2**32 - 1)),
    (changed(next_index=[0, 0]), "next_index"),
    (changed(sampling={"n": 2}, next_index=[0] * 3), "next_index"),
    *((changed(linger_seconds=s), "linger_seconds") for s in (601, 2**32 - 1)),
    *((changed(priority=p), "priority") for p in (-101, 101, 2**31 - 1)),
    (changed(cache_salt="x" * 257), "cache_salt"),
    (changed(sampling={"stop": [""]}), "sampling.stop"),
    (changed(sampling={"stop": ["x" * 1025]}), "sampling.stop"),
    (changed(sampling={"stop": ["x"] * 17}), "sampling.stop"),
    (changed(sampling={"stop_token_ids": [VOCABULARY]}), "sampling.stop_token_ids"),
    (changed(sampling={"stop_token_ids": [1] * 257}), "sampling.stop_token_ids"),
    (changed(request_id="x" * 257), "request_id"),
    (changed([5, VOCABULARY]), "prompt_token_ids"),
    (changed([2**32 - 1]), "prompt_token_ids"),
    (changed([]), "prompt is empty"),
    (changed(""), "prompt is empty"),
    (pb.GenerateRequest(), "no input"),
    (changed([7] * LENGTH), f"{LENGTH} tokens"),
    (changed(" word" * 4000), "the prompt has 4000 tokens"),
    (chat(), "chat has no messages"),
    (chat(("", "Hi")), "no role"),
]


def invalid_fields(cluster):
    for message, named in INVALID:
        for call in (cluster.stub.Generate, lambda m: list(cluster.stub.GenerateStream(m))):
            code, text, _ = error_of(lambda: call(message))
            assert code == CODE.INVALID_ARGUMENT and named in text, (code, text, named)
    for call in (lambda: cluster.stub.Generate(changed(model="gpt-9")),
                 lambda: cluster.stub.Tokenize(pb.TokenizeRequest(text="x", model="gpt-9")),
                 lambda: cluster.stub.Detokenize(pb.DetokenizeRequest(model="gpt-9"))):
        code, text, _ = error_of(call)
        assert code == CODE.NOT_FOUND and '"gpt-9"' in text and "SmolLM2" in text, (code, text)
    for call in (lambda: cluster.stub.Tokenize(pb.TokenizeRequest()),
                 lambda: cluster.stub.Detokenize(pb.DetokenizeRequest(token_ids=[VOCABULARY]))):
        code, text, _ = error_of(call)
        assert code == CODE.INVALID_ARGUMENT and text, (code, text)


def field(number, payload):
    assert len(payload) < 128
    return bytes([number << 3 | 2, len(payload)]) + payload


def invalid_bytes(cluster):
    """What no generated client would send: text that is not UTF-8, and bytes that are no message."""
    bad = b"caf\xe9"
    cases = [
        ("Generate", field(3, bad), "prompt is not valid UTF-8"),
        ("Generate", field(1, bad), "request_id is not valid UTF-8"),
        ("Generate", field(5, field(1, field(1, b"user") + field(2, bad))),
         "chat.messages.content is not valid UTF-8"),
        ("Generate", field(3, b"Hi") + field(6, field(7, bad)), "sampling.stop is not valid UTF-8"),
        ("GenerateStream", field(3, bad), "prompt is not valid UTF-8"),
        ("Tokenize", field(2, bad), "text is not valid UTF-8"),
        ("Detokenize", field(1, bad), "model is not valid UTF-8"),
        ("Generate", b"\x1a\xff", "not a shardline.v1.GenerateRequest"),
    ]
    for method, payload, named in cases:
        kind = "unary_stream" if method.endswith("Stream") else "unary_unary"
        call = getattr(cluster.channel, kind)(f"/shardline.v1.Generation/{method}")
        code, text, _ = error_of(lambda: list(call(payload)))
        assert code == CODE.INVALID_ARGUMENT and named in text, (code, text, named)


def generous_values(cluster):
    """Values beyond what can be had are cut to it, as their fields say."""
    most = cluster.stub.Generate(request([7] * (LENGTH - 3), max_tokens=2**32 - 1, ignore_eos=True))
    assert most.finish_reason == pb.FINISH_REASON_LENGTH and len(most.token_ids) == 3, most
    for sampling in ({"top_k": 2**32 - 1}, {"temperature": 100}, {"seed": 2**64 - 1},
                     {"stop": ["x" * 1024] * 16}, {"stop_token_ids": [VOCABULARY - 1] * 256},
                     {"n": 64}, {"logprobs": 20, "prompt_logprobs": 20}, {"min_tokens": 2},
                     {"logit_bias": {i: -100 for i in range(4096)}},
                     {"bad_words": ["x" * 1024] * 128}, {"repetition_penalty": 100},
                     {"presence_penalty": -2, "frequency_penalty": 2}):
        answer = cluster.stub.Generate(changed(sampling={"max_tokens": 2, **sampling}))
        assert answer.usage.completion_tokens >= 1, answer


def huge_prompts(cluster):
    """Text just below gRPC's 4 MiB limit is refused in time, whatever it is made of."""
    for text in ("a" * 4_000_000, " " * 4_000_000, "<|im_start|>" * 330_000, "\U0001f642" * 990_000):
        begin = time.time()
        code, message, _ = error_of(lambda: cluster.stub.Generate(changed(text), timeout=60))
        assert code == CODE.INVALID_ARGUMENT and "tokens" in message, (text[:9], code, message)
        print(f"4 MB of {text[:2]!r}: {time.time() - begin:.2f} s", flush=True)
    code, _, _ = error_of(lambda: cluster.stub.Generate(changed("a" * 5_000_000)))
    assert code == CODE.RESOURCE_EXHAUSTED, code


def main():
    with Cluster(smollm2(), "--tensor-parallel-size", 2, "--max-model-len", LENGTH) as cluster:
        before = cluster.stub.Generate(request("The sea is", ignore_eos=True)).token_ids
        bystander = cluster.stub.Generate.future(request("The sea", max_tokens=200, ignore_eos=True))
        for check in (invalid_fields, invalid_bytes, generous_values, huge_prompts):
            check(cluster)
            print(f"{check.__name__}: ok", flush=True)
        assert len(bystander.result().token_ids) == 200
        assert cluster.stub.Generate(request("The sea is", ignore_eos=True)).token_ids == before
        now = wait_for(lambda: (s := cluster.status()).queue.running == 0 and s, "an idle cluster")
        assert now.replicas[0].kv_blocks_used == 0 and now.replicas[0].epoch == 1, now


if __name__ == "__main__":
    sys.exit(main())
