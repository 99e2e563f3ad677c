"""One request, several calls: attaching by id, replay, lingering, cancelling; and how answers end."""

import sys

import grpc

from harness import Cluster, collect, error_of, pb, request, smollm2, wait_for

CODE = grpc.StatusCode
PROMPT = "The capital of France is"
LONG = dict(max_tokens=400, ignore_eos=True)


def named(name, **fields):
    message = request(PROMPT, **{**LONG, **fields})
    message.request_id = name
    return message


def idle(cluster):
    return wait_for(lambda: (s := cluster.status()).queue.running + s.queue.waiting == 0 and s,
                    "an idle cluster")


def succeeds(call):
    try:
        call()
        return True
    except grpc.RpcError as error:
        assert error.code() == CODE.NOT_FOUND, error
        return False


def attaching(cluster):
    """Two calls, one request; each reads all of it, or what it says it lacks."""
    before = cluster.status().counters.requests_accepted
    first = cluster.stub.GenerateStream(named("twice"))
    head = next(first)
    second = cluster.stub.GenerateStream(named("twice"))
    message = named("twice")
    message.next_index.append(100)
    third = cluster.stub.GenerateStream(message)
    rest, text, last = collect(first)
    whole = list(head.token_ids) + rest
    assert collect(second) == (whole, head.text + text, last), "the second saw something else"
    tail, _, tail_last = collect(third)
    assert tail == whole[100:] and tail_last.usage == last.usage, (len(tail), tail_last)
    assert cluster.status().counters.requests_accepted == before + 1
    # A call that goes does not end what another reads.
    first = cluster.stub.GenerateStream(named("shared"))
    second = cluster.stub.GenerateStream(named("shared"))
    next(first), next(second)
    first.cancel()
    assert cluster.stub.Generate(named("shared")).finish_reason == pb.FINISH_REASON_LENGTH
    assert len(collect(second)[0]) >= LONG["max_tokens"] - 10
    # Without a seed the server draws one: attaching still reads the same answer.
    draws = named("drawn", temperature=1.0)
    one, two = cluster.stub.Generate.future(draws), cluster.stub.Generate.future(draws)
    assert one.result().token_ids == two.result().token_ids


def other_bodies(cluster):
    stream = cluster.stub.GenerateStream(named("taken"))
    next(stream)
    for other in (named("taken", max_tokens=401), named("taken", temperature=0.5),
                  named("taken", logit_bias={7: 1.0})):
        code, text, _ = error_of(lambda: cluster.stub.Generate(other))
        assert code == CODE.ALREADY_EXISTS and '"taken"' in text, (code, text)
    # A map's order is not part of a body.
    stream.cancel()
    idle(cluster)
    biases = {i: 0.5 for i in range(300, 330)}
    held = cluster.stub.GenerateStream(named("biased", logit_bias=biases))
    next(held)
    again = named("biased", logit_bias=dict(reversed(biases.items())), max_tokens=400)
    assert len(cluster.stub.Generate(again).token_ids) == 400
    # When a request is over and nobody lingers, its id is free.
    assert len(cluster.stub.Generate(named("taken", max_tokens=3)).token_ids) == 3


def lingering(cluster):
    """A client that went comes back, during the answer and after its end."""
    message = named("patient", max_tokens=150)
    message.linger_seconds = 60
    whole = list(cluster.stub.Generate(request(PROMPT, max_tokens=150, ignore_eos=True)).token_ids)
    stream = cluster.stub.GenerateStream(message)
    got = list(next(stream).token_ids)
    stream.cancel()
    message.next_index.append(len(got))
    stream = cluster.stub.GenerateStream(message)
    got += next(stream).token_ids
    stream.cancel()
    idle(cluster)
    message.next_index[0] = len(got)
    before = cluster.status().counters.requests_accepted
    got += collect(cluster.stub.GenerateStream(message))[0]
    assert got == whole, (got, whole)
    assert cluster.status().counters.requests_accepted == before, "it was generated again"
    message.ClearField("next_index")
    message.linger_seconds = 1
    message.request_id = "impatient"
    stream = cluster.stub.GenerateStream(message)
    next(stream)
    stream.cancel()
    # Nobody reads on: it is forgotten a second later.
    cancel = pb.CancelRequest(request_id="impatient")
    idle(cluster)
    wait_for(lambda: not succeeds(lambda: cluster.stub.Cancel(cancel)), "the id to be forgotten")


def cancelling(cluster):
    stream = cluster.stub.GenerateStream(named("doomed", max_tokens=1500))
    head = next(stream)
    cluster.stub.Cancel(pb.CancelRequest(request_id="doomed"))
    tokens, _, last = collect(stream)
    assert last.finish_reason == pb.FINISH_REASON_CANCELLED, last
    assert last.usage.completion_tokens == len(head.token_ids) + len(tokens) < 1500, last
    code, text, _ = error_of(lambda: cluster.stub.Cancel(pb.CancelRequest(request_id="nobody")))
    assert code == CODE.NOT_FOUND and '"nobody"' in text, (code, text)
    assert idle(cluster).replicas[0].kv_blocks_used == 0


def endings(cluster):
    def run(**sampling):
        return cluster.stub.Generate(request(PROMPT, max_tokens=24, ignore_eos=True, **sampling))

    whole = run()
    stop = whole.text[10:17]
    stopped = run(stop=[stop])
    assert stopped.stop_cause.text == stop and stopped.text == whole.text[:10], stopped
    assert run(stop=[stop], include_stop_str_in_output=True).text == whole.text[:17]
    late = run(stop=[stop], min_tokens=20)
    assert len(late.token_ids) >= 20 and late.text.startswith(whole.text[:17]), late
    token = whole.token_ids[5]
    stopped = run(stop_token_ids=[token])
    assert stopped.stop_cause.token_id == token and stopped.token_ids[-1] == token, stopped
    included = run(stop_token_ids=[token], include_stop_str_in_output=True)
    spelled = cluster.stub.Detokenize(pb.DetokenizeRequest(token_ids=[token])).text
    assert included.text == stopped.text + spelled, (included, stopped)

    chat = request("", max_tokens=40)
    chat.chat.messages.add(role="user", content="What is the capital of France?")
    answer = cluster.stub.Generate(chat)
    assert answer.finish_reason == pb.FINISH_REASON_STOP and not answer.HasField("stop_cause"), answer
    chat.sampling.include_stop_str_in_output = True
    assert cluster.stub.Generate(chat).text == answer.text  # the end is a special token
    chat.sampling.skip_special_tokens = False
    assert cluster.stub.Generate(chat).text == answer.text + "<|im_end|>"


def main():
    with Cluster(smollm2(), "--max-model-len", 2048, "--kv-cache-memory", 300_000_000) as cluster:
        for check in (attaching, other_bodies, lingering, cancelling, endings):
            check(cluster)
            print(f"{check.__name__}: ok", flush=True)


if __name__ == "__main__":
    sys.exit(main())
