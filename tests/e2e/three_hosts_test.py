"""A coordinator on one host and a replica over two others: with mutual TLS over real interfaces,
through a cable that is pulled and through 5 % of lost packets, and what listens where."""

import concurrent.futures
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import grpc

import three_hosts
from certificates import Authority
from harness import BIN, ROOT, admin_grpc, admin_pb, pb_grpc, request, smollm2, wait_for

SERVING = 4
PORT, MPI_PORT = 50051, 31000
FOUND_WITHIN = 5.0  # seconds
LOSS = 5  # percent
# Greedy and sampled ones together. Longer than the cable needs to be pulled.
REQUESTS = [dict(prompt=prompt, max_tokens=count, ignore_eos=True, **sampling)
            for prompt, count, sampling in (
                ("Once upon a time", 90, {}), ("The capital of France is", 70, {}),
                ("Three rivers:", 80, {"temperature": 1.0, "seed": 7}))]


class Replica:
    """deploy/mpirun/replica.sh on the first host."""

    def __init__(self, hosts, folder, rank, authority):
        self.log = folder / "ranks.log"
        # Instead of ssh; called as `agent HOST COMMAND...`. The other host has its own name and files.
        agent = folder / "agent"
        agent.write_text("#!/bin/sh\nshift\n"
                         f"mkdir -p {folder}/second\n"
                         f"exec ip netns exec {hosts['second'].name} unshare --uts "
                         f"env TMPDIR={folder}/second "
                         "sh -c 'hostname second-host; exec sh -c \"$*\"' sh \"$@\"\n")
        agent.chmod(0o755)
        settings = {"SHARDLINE_HOSTS": ",".join(f"{hosts[host].address}:1"
                                                for host in ("first", "second")),
                    "SHARDLINE_NETWORK": three_hosts.NETWORK,
                    "SHARDLINE_COORDINATOR": f"{hosts['coordinator'].address}:{PORT}",
                    "SHARDLINE_MPI_PORT": MPI_PORT, "SHARDLINE_REMOTE_SHELL": agent,
                    "SHARDLINE_BIN": BIN, "SHARDLINE_LOG": self.log}
        self.out = open(folder / "replica.out", "w+")
        self.process = subprocess.Popen(
            hosts["first"].command(ROOT / "deploy/mpirun/replica.sh", "--threads", 1, "--tls-ca",
                                   authority.certificate, "--tls-certificate", rank[0], "--tls-key",
                                   rank[1]),
            env=os.environ | {name: str(value) for name, value in settings.items()},
            stdout=self.out, stderr=self.out)

    def text(self):
        self.out.seek(0)
        return self.out.read() + self.log.read_text()


class Cluster:
    """The coordinator on its host, the replica on the others, and a client on the switch."""

    def __init__(self, hosts, folder):
        self.hosts, self.folder = hosts, folder
        address = hosts["coordinator"].address
        authority = Authority(folder, "ours")
        server, client, rank = (authority.issue(who, address=address)
                                for who in ("server", "client", "rank"))
        self.log = open(folder / "coordinator.log", "w+")
        self.coordinator = subprocess.Popen(
            hosts["coordinator"].command(
                BIN / "shardline-coordinator", smollm2(), "--listen", f"{address}:{PORT}",
                "--pipeline-parallel-size", 2, "--max-model-len", 512, "--server-certificate",
                server[0], "--server-key", server[1], "--client-ca", authority.certificate),
            stdout=self.log, stderr=self.log)
        self.replica = Replica(hosts, folder, rank, authority)
        self.channel = grpc.secure_channel(f"{address}:{PORT}", authority.credentials(client))
        self.stub = pb_grpc.GenerationStub(self.channel)
        self.admin = admin_grpc.AdminStub(self.channel)
        self.stranger = grpc.secure_channel(f"{address}:{PORT}", authority.credentials())

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        for channel in (self.channel, self.stranger):
            channel.close()
        for process in (self.coordinator, self.replica.process):
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            if process.poll() is None:
                process.kill()
        for host in self.hosts.values():
            for process in host.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
        if kind is not None:
            print(self.text(), file=sys.stderr)
        self.log.close()
        self.replica.out.close()

    def text(self):
        self.log.seek(0)
        return f"--- coordinator\n{self.log.read()}--- replica\n{self.replica.text()}"

    def state(self):
        """(state, epoch) of the replica; nothing while the coordinator does not answer."""
        try:
            replica, = self.admin.GetStatus(admin_pb.GetStatusRequest(), timeout=5,
                                            wait_for_ready=True).replicas
        except grpc.RpcError:
            assert self.coordinator.poll() is None, self.text()
            return None, None
        return replica.state, replica.epoch

    def serve(self, seconds=90):
        def serving():
            assert self.replica.process.poll() is None, self.text()
            return self.state()[0] == SERVING
        wait_for(serving, "the replica to serve", seconds)
        return self.state()[1]

    def start_requests(self, pool, seen=None):
        """Futures of the answers' tokens; `seen[i]` counts those that have arrived."""
        def answer(i):
            tokens = []
            for part in self.stub.GenerateStream(request(**REQUESTS[i]), timeout=150):
                assert not tokens or part.first_token == len(tokens), part
                tokens.extend(part.token_ids)
                if seen is not None:
                    seen[i] = len(tokens)
            return tokens
        return [pool.submit(answer, i) for i in range(len(REQUESTS))]


def answers(futures):
    return [future.result() for future in futures]


def close_ports(host):
    """deploy/mpirun/firewall.nft with the network's own addresses."""
    rules = (ROOT / "deploy/mpirun/firewall.nft").read_text()
    replica = ", ".join(three_hosts.HOSTS[role] for role in ("first", "second"))
    made, count = re.subn(r"^define hosts = .*", f"define hosts = {{ {replica} }}", rules,
                          flags=re.MULTILINE)
    assert count == 1 and f"define ports = {MPI_PORT}-{MPI_PORT + 99}" in made, made
    host.run("nft", "-f", "-", input=made)


def check_ports(cluster):
    """What takes connections: the coordinator's one port on its address; on the replica's hosts MPI's
    range, which a firewall keeps for them, and mpirun's own on the loopback interface."""
    hosts = cluster.hosts
    own = hosts["coordinator"].listening()
    assert own == {("tcp", hosts["coordinator"].address, PORT): "shardline-coord"}, own
    assert hosts["coordinator"].reachable(PORT)
    for role in ("first", "second"):
        host, programs, open_to_ipv4 = hosts[role], {}, []
        for (protocol, address, port), program in host.listening().items():
            assert protocol == "tcp", (role, protocol, address, port, program)
            if address == "127.0.0.1":
                continue
            programs[port] = program
            if address == "0.0.0.0":
                open_to_ipv4.append(port)
        assert programs.keys() <= set(range(MPI_PORT, MPI_PORT + 100)), (role, programs)
        assert "shardline-worke" in {programs[port] for port in open_to_ipv4}, (role, programs)
        assert not any(host.reachable(port) for port in programs), (role, programs)
        # The firewall's doing.
        host.run("nft", "delete", "table", "inet", "shardline")
        assert all(host.reachable(port) for port in open_to_ipv4), (role, programs)
        close_ports(host)
        print(f"  {role}: {programs}", flush=True)


def pull_the_cable(cluster, pool, undisturbed):
    epoch = cluster.serve()
    seen = [0] * len(REQUESTS)
    running = cluster.start_requests(pool, seen)
    wait_for(lambda: min(seen) >= 8, "tokens of every stream")
    begin = time.time()
    cluster.hosts["second"].plug(False)
    wait_for(lambda: cluster.state()[1] not in (epoch, None), "the cut to be found")
    found = time.time() - begin
    at_cut = list(seen)
    assert found < FOUND_WITHIN, found
    assert all(count < len(tokens) for count, tokens in zip(at_cut, undisturbed)), at_cut
    time.sleep(1)  # longer down than it took to find
    assert seen == at_cut, (seen, at_cut)
    cluster.hosts["second"].plug(True)
    back = time.time()
    cluster.serve()
    print(f"  found after {found:.1f} s; served again {time.time() - back:.1f} s after the cable was "
          "back", flush=True)
    assert answers(running) == undisturbed


def lose_packets(cluster, pool, undisturbed):
    epoch = cluster.serve()
    for host in cluster.hosts.values():
        host.lose(LOSS)
    begin = time.time()
    assert answers(cluster.start_requests(pool)) == undisturbed
    seconds = time.time() - begin
    lost = {role: host.lost() for role, host in cluster.hosts.items()}
    assert all(count > 10 for count in lost.values()), lost
    assert cluster.state()[1] == epoch, "lost packets alone made the replica look lost"
    print(f"  packets lost: {lost}, {seconds:.1f} s", flush=True)


def stop(cluster):
    """SIGTERM to the coordinator ends all of it, on every host."""
    cluster.coordinator.send_signal(signal.SIGTERM)
    cluster.coordinator.wait(timeout=60)
    assert cluster.replica.process.wait(timeout=30) == 0, cluster.text()
    for role, host in cluster.hosts.items():
        wait_for(lambda: not host.processes(), f"nothing to be left on {role}")


def inside(run):
    hosts = {role: three_hosts.Host(role, run) for role in three_hosts.HOSTS}
    with tempfile.TemporaryDirectory(prefix="shardline-hosts.") as folder, \
            Cluster(hosts, pathlib.Path(folder)) as cluster, \
            concurrent.futures.ThreadPoolExecutor(len(REQUESTS)) as pool:
        begin = time.time()
        for role in ("first", "second"):
            close_ports(hosts[role])
        cluster.serve()
        ranks = cluster.admin.GetStatus(admin_pb.GetStatusRequest()).replicas[0].ranks
        assert len({rank.host for rank in ranks}) == 2, ranks
        undisturbed = answers(cluster.start_requests(pool))
        assert [len(tokens) for tokens in undisturbed] == [r["max_tokens"] for r in REQUESTS]
        print(f"served over mutual TLS: ok, {time.time() - begin:.1f} s", flush=True)
        try:
            admin_grpc.AdminStub(cluster.stranger).GetStatus(admin_pb.GetStatusRequest(), timeout=10)
            raise AssertionError("a client without a certificate was let in")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        for check in (check_ports, pull_the_cable, lose_packets, check_ports, stop):
            begin = time.time()
            check(cluster, *([pool, undisturbed] if check in (pull_the_cable, lose_packets) else []))
            print(f"{check.__name__}: ok, {time.time() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(inside(sys.argv[1]))
    sys.exit(three_hosts.run_inside(__file__))
