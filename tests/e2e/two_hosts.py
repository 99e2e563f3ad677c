"""Two hosts on one machine: network namespaces, each with a name of its own, and a veth pair
between them. The caller goes on inside the first one."""

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile

from harness import BIN, Coordinator, wait_for

LINK = "shard0"  # the interface of both ends
HERE, THERE = "10.97.31.1", "10.97.31.2"
SKIPPED = 77  # what CTest counts as skipped


def ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


@contextlib.contextmanager
def made_namespaces(names, commands):
    """Namespaces of these names, after the `commands` of `ip`; ends with SKIPPED where there are
    none to be had."""
    try:
        for name in names:
            made = ip("netns", "add", name)
            if made.returncode != 0:
                print("skipped: network namespaces cannot be made here (they take root and "
                      f"CAP_SYS_ADMIN): {made.stderr.strip()}")
                sys.exit(SKIPPED)
        for command in commands:
            done = ip(*command)
            assert done.returncode == 0, (command, done.stderr)
        yield
    finally:
        for name in names:
            ip("netns", "del", name)


def commands(names):
    """A link between the two."""
    yield ["link", "add", LINK, "netns", names[0], "type", "veth", "peer", "name", LINK, "netns",
           names[1]]
    for name, address in zip(names, (HERE, THERE)):
        yield ["-n", name, "addr", "add", f"{address}/24", "dev", LINK]
        for link in (LINK, "lo"):
            yield ["-n", name, "link", "set", link, "up"]


def run_inside(script):
    """Runs `script INSIDE-ARGUMENT` in the first namespace; its exit code."""
    here, there = names = [f"shardline-{end}-{os.getpid()}" for end in "ab"]
    with made_namespaces(names, commands(names)):
        return subprocess.run(["ip", "netns", "exec", here, sys.executable, script, there]).returncode


def link_bytes():
    """(sent, received) over the link so far."""
    statistics = pathlib.Path(f"/sys/class/net/{LINK}/statistics")
    return tuple(int((statistics / f"{way}_bytes").read_text()) for way in ("tx", "rx"))


class Cluster:
    """A coordinator here, and one rank on each host by mpirun, which reaches the other host through
    a remote shell agent as it would through ssh."""

    def __init__(self, there, model, *flags):
        self.directory = tempfile.TemporaryDirectory(prefix="shardline-hosts.")
        agent = pathlib.Path(self.directory.name) / "agent"
        # Called as `agent HOST COMMAND...`. The other host has its own name and temporary files.
        agent.write_text("#!/bin/sh\nshift\n"
                         f"mkdir -p {self.directory.name}/there\n"
                         f"exec ip netns exec {there} unshare --uts env "
                         f"TMPDIR={self.directory.name}/there "
                         "sh -c 'hostname other-host; exec sh -c \"$*\"' sh \"$@\"\n")
        agent.chmod(0o755)
        self.coordinator = Coordinator(model, *flags, listen=f"{HERE}:0")
        self.log = open(pathlib.Path(self.directory.name) / "ranks.log", "w+")
        parameters = {"plm": "rsh", "plm_rsh_agent": agent, "oob_tcp_if_include": LINK,
                      "pml": "ob1", "btl": "self,tcp", "btl_tcp_if_include": LINK,
                      "mpi_yield_when_idle": "1"}
        command = ["mpirun", "--allow-run-as-root", "--bind-to", "none", "-n", "2", "--host",
                   f"{HERE}:1,{THERE}:1"]
        for name, value in parameters.items():
            command += ["--mca", name, str(value)]
        self.ranks = subprocess.Popen(
            [*command, str(BIN / "shardline-worker"), "--coordinator", self.coordinator.address,
             "--threads", "1"], stdout=self.log, stderr=self.log)

    def __enter__(self):
        def serving():
            assert self.ranks.poll() is None, self.log_text()
            return self.coordinator.status().serving
        wait_for(serving, "two hosts serve", seconds=240)
        hosts = {rank.host for rank in self.coordinator.status().replicas[0].ranks}
        assert len(hosts) == 2, hosts
        return self.coordinator

    def __exit__(self, kind, value, trace):
        self.coordinator.process.terminate()
        self.coordinator.process.wait(timeout=60)
        try:
            self.ranks.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.ranks.kill()
            raise
        finally:
            if kind is not None:
                print(self.log_text(), file=sys.stderr)
            self.coordinator.__exit__(kind, value, trace)
            self.log.close()
            self.directory.cleanup()

    def log_text(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()
