"""TLS, certificates and tokens between clients, coordinator and ranks, with an authority of our own."""

import os
import pathlib
import socket
import struct
import subprocess
import sys
import tempfile

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from certificates import Authority
from harness import (BIN, Cluster, Coordinator, admin_grpc, admin_pb, control_pb, error_of, pb,
                     pb_grpc, request, smollm2)

CODE = grpc.StatusCode


def token_file(folder, name, *tokens):
    path = pathlib.Path(folder) / f"{name}.tokens"
    path.write_text("".join(token + "\n" for token in tokens))
    return str(path)


def bearer(token):
    return (("authorization", f"Bearer {token}"),)


API, OLD_API, ADMIN, RANK = ("api-token-0123456789", "old-api-token-012345", "admin-token-01234567",
                             "rank-token-0123456789")


def every_method(channel):
    """(service, path, a call of it with the metadata) of all methods of our protos."""
    for proto in (pb, admin_pb, control_pb):
        for service in proto.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}"
                if method.client_streaming:
                    call = channel.stream_stream(path)
                    yield service.name, path, lambda metadata, call=call: list(
                        call(iter([b""]), metadata=metadata, timeout=10))
                elif method.server_streaming:
                    call = channel.unary_stream(path)
                    yield service.name, path, lambda metadata, call=call: list(
                        call(b"", metadata=metadata, timeout=10))
                else:
                    call = channel.unary_unary(path)
                    yield service.name, path, lambda metadata, call=call: call(
                        b"", metadata=metadata, timeout=10)


def refused(call, metadata):
    try:
        call(metadata)
    except grpc.RpcError as error:
        return error.code() == CODE.UNAUTHENTICATED
    return False


def tokens_on_every_method(channel):
    right = {"Generation": API, "Admin": ADMIN, "WorkerControl": RANK}
    methods = list(every_method(channel))
    assert {service for service, _, _ in methods} == set(right)
    assert len(methods) >= 8, methods
    for service, path, call in methods:
        wrong = [t for s, t in right.items() if s != service]
        for metadata in (None, bearer(""), bearer("x" * 20), bearer(right[service][:-1]),
                         bearer(right[service] + "x"), (("authorization", right[service]),),
                         *map(bearer, wrong)):
            assert refused(call, metadata), (path, metadata)
        assert not refused(call, bearer(right[service])), path
    # A second token of the same file, for the time of a change.
    stub = pb_grpc.GenerationStub(channel)
    assert stub.ListModels(pb.ListModelsRequest(), metadata=bearer(OLD_API)).models
    # Health tells nothing worth a token; reflection cannot ask for one.
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == 1
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    code, _, _ = error_of(lambda: list(reflection.ServerReflectionInfo(iter(
        [reflection_pb2.ServerReflectionRequest(list_services="")]))))
    assert code == CODE.UNIMPLEMENTED, code


def cannot_connect(address, credentials):
    channel = grpc.secure_channel(address, credentials) if credentials else \
        grpc.insecure_channel(address)
    with channel:
        code, _, _ = error_of(lambda: pb_grpc.GenerationStub(channel).ListModels(
            pb.ListModelsRequest(), metadata=bearer(API), timeout=10))
        assert code == CODE.UNAVAILABLE, code


def command(*words, **environment):
    return subprocess.run([str(BIN / "shardline"), *words], capture_output=True, text=True,
                          env={**os.environ, **environment}, timeout=60)


def secured_cluster(folder):
    ours, strangers = Authority(folder, "ours"), Authority(folder, "strangers")
    server, client, rank = (ours.issue(who) for who in ("server", "client", "rank"))
    stranger = strangers.issue("stranger")
    api = token_file(folder, "api", API, OLD_API)
    admin, ranks = token_file(folder, "admin", ADMIN), token_file(folder, "ranks", RANK)
    flags = ["--server-certificate", server[0], "--server-key", server[1], "--client-ca",
             ours.certificate, "--tls-ca", ours.certificate, "--tls-certificate", rank[0],
             "--tls-key", rank[1], "--api-token-file", api, "--admin-token-file", admin,
             "--worker-token-file", ranks]
    with Cluster(smollm2(), "--tensor-parallel-size", 2, "--max-model-len", 512, *flags) as cluster:
        with grpc.secure_channel(cluster.address, ours.credentials(client)) as channel:
            stub = pb_grpc.GenerationStub(channel)
            answer = stub.Generate(request("The capital of France is"), metadata=bearer(API))
            assert "Paris" in answer.text, answer
            status = admin_grpc.AdminStub(channel).GetStatus(admin_pb.GetStatusRequest(),
                                                            metadata=bearer(ADMIN))
            assert status.counters.requests_accepted == 1, status
            tokens_on_every_method(channel)
        cannot_connect(cluster.address, None)
        cannot_connect(cluster.address, ours.credentials())
        cannot_connect(cluster.address, ours.credentials(stranger))
        cannot_connect(cluster.address, strangers.credentials(client))

        tls = ["--address", cluster.address, "--tls-ca", ours.certificate, "--tls-certificate",
               client[0], "--tls-key", client[1]]
        done = command("generate", "The capital of France is", *tls, "--token-file", api,
                       "--max-tokens", "8", "--temperature", "0")
        assert done.returncode == 0 and "Paris" in done.stdout, done
        done = command("status", *tls, SHARDLINE_TOKEN=ADMIN)
        assert done.returncode == 0 and "serving" in done.stdout, done
        done = command("status", SHARDLINE_ADDRESS=cluster.address, SHARDLINE_TOKEN_FILE=admin,
                       SHARDLINE_TLS_CA=ours.certificate, SHARDLINE_TLS_CERTIFICATE=client[0],
                       SHARDLINE_TLS_KEY=client[1], SHARDLINE_TLS_SERVER_NAME="shardline.test")
        assert done.returncode == 0, done
        done = command("generate", "Hi", *tls)
        assert done.returncode == 2 and "UNAUTHENTICATED" in done.stderr, done
        done = command("generate", "Hi", "--address", cluster.address, "--token-file", api)
        assert done.returncode == 3, done
        log = cluster.log_text()
        assert not any(token in log for token in (API, ADMIN, RANK)), "a token is in the log"


def bad_files(folder):
    """Everything that is wrong with a file is found at the start, and named."""
    ours = Authority(folder, "theirs")
    (certificate, key), (_, other_key) = ours.issue("server"), ours.issue("other")
    expired, expired_key = ours.issue("expired", days=-1)
    good, short, empty = (token_file(folder, n, *t) for n, t in (
        ("good", [API]), ("short", ["abc"]), ("empty", [])))
    encrypted = ours.path("encrypted.key")
    ours.run("ec", "-in", key, "-out", encrypted, "-aes128", "-passout", "pass:secret")
    cases = [
        (["--server-certificate", certificate], "--server-key"),
        (["--server-key", key], "--server-certificate"),
        (["--client-ca", ours.certificate], "--server-certificate"),
        (["--server-certificate", "/no/such.pem", "--server-key", key], "/no/such.pem"),
        (["--server-certificate", key, "--server-key", key], "no certificate"),
        (["--server-certificate", certificate, "--server-key", certificate], "no private key"),
        (["--server-certificate", certificate, "--server-key", encrypted], "no private key"),
        (["--server-certificate", certificate, "--server-key", other_key], "is not that of"),
        (["--server-certificate", expired, "--server-key", expired_key], "expired"),
        (["--server-certificate", certificate, "--server-key", key, "--client-ca", key],
         "no certificate"),
        (["--api-token-file", good], "--admin-token-file is missing"),
        (["--api-token-file", good, "--admin-token-file", good], "--worker-token-file is missing"),
        *((["--api-token-file", bad, "--admin-token-file", good, "--worker-token-file", good], what)
          for bad, what in ((short, "line 1 is no token"), (empty, "holds no token"),
                            (folder, "is a directory"), ("/no/such.tokens", "/no/such.tokens"))),
        (["--max-request-bytes", "100"], "--max-request-bytes"),
    ]
    for flags, named in cases:
        done = subprocess.run([str(BIN / "shardline-coordinator"), smollm2(), "--listen",
                               "127.0.0.1:0", *flags], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and named in done.stderr, (flags, named, done)
        assert "abc" not in done.stderr.replace(folder, ""), "a token is in the message"
    for flags, named in ((["--tls-certificate", certificate], "--tls-ca"),
                         (["--tls-ca", ours.certificate, "--tls-key", key], "--tls-certificate"),
                         (["--tls-ca", "/no/such.pem"], "/no/such.pem"),
                         (["--token-file", empty], "holds no token")):
        done = command("generate", "Hi", *flags)
        assert done.returncode == 2 and named in done.stderr, (flags, named, done)


def limits():
    with Coordinator(smollm2(), "--max-request-bytes", 200_000) as coordinator:
        code, _, _ = error_of(lambda: coordinator.stub.Generate(request("a" * 300_000)))
        assert code == CODE.RESOURCE_EXHAUSTED, code
        # Its connection is lost with it.
        with grpc.insecure_channel(coordinator.address,
                                   [("grpc.use_local_subchannel_pool", 1)]) as channel:
            code, _, _ = error_of(lambda: pb_grpc.GenerationStub(channel).ListModels(
                pb.ListModelsRequest(), metadata=(("x-note", "a" * 40_000),)))
            assert code == CODE.RESOURCE_EXHAUSTED, code
        assert coordinator.stub.ListModels(pb.ListModelsRequest()).models
        assert "ENHANCE_YOUR_CALM" in flood_with_pings(coordinator.address)
        assert coordinator.stub.ListModels(pb.ListModelsRequest()).models


def flood_with_pings(address):
    """What a server says (in the debug data of its GOAWAY) to 100 pings at once."""
    host, port = address.rsplit(":", 1)
    frame = lambda kind, payload: struct.pack(">I", len(payload))[1:] + bytes(
        [kind, 0]) + bytes(4) + payload
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, b"") +
                           b"".join(frame(6, struct.pack(">Q", i)) for i in range(100)))
        received = b""
        while part := connection.recv(65536):
            received += part
    while received:
        length, kind = int.from_bytes(received[:3], "big"), received[3]
        payload, received = received[9:9 + length], received[9 + length:]
        if kind == 7:  # GOAWAY: last stream, error code, debug data
            code = int.from_bytes(payload[4:8], "big")
            return "ENHANCE_YOUR_CALM" if code == 11 else f"code {code}"
    return "no GOAWAY"


def main():
    with tempfile.TemporaryDirectory(prefix="shardline-security.") as folder:
        secured_cluster(folder)
        print("secured_cluster: ok", flush=True)
        bad_files(folder)
        print("bad_files: ok", flush=True)
        limits()
        print("limits: ok", flush=True)


if __name__ == "__main__":
    sys.exit(main())
