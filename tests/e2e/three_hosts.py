"""Three hosts on one machine: network namespaces on a switch, and the caller goes on inside a fourth
one, which is the switch and the clients' host."""

import json
import os
import re
import socket
import subprocess
import sys

from two_hosts import ip, made_namespaces

LINK = "shard0"  # the hosts' only interface
NETWORK = "10.97.32.0/24"
CLIENT = "10.97.32.254"
HOSTS = {"coordinator": "10.97.32.1", "first": "10.97.32.2", "second": "10.97.32.3"}


def name_of(host, run):
    return f"shardline-{host}-{run}"


def commands(run):
    """What `ip` must do, namespaces aside. An interface carries no packet larger than the wire's, so
    that a lost one is one."""
    switch = name_of("switch", run)
    inside = lambda *words: ["-n", switch, *words]
    yield inside("link", "add", "switch0", "type", "bridge")
    yield inside("addr", "add", f"{CLIENT}/24", "dev", "switch0")
    for link in ("lo", "switch0"):
        yield inside("link", "set", link, "up")
    for host, address in HOSTS.items():
        name = name_of(host, run)
        yield ["link", "add", host, "netns", switch, "gso_max_segs", "1", "type", "veth", "peer",
               "name", LINK, "netns", name, "gso_max_segs", "1"]
        yield inside("link", "set", host, "master", "switch0", "up")
        yield ["-n", name, "addr", "add", f"{address}/24", "dev", LINK]
        for link in ("lo", LINK):
            yield ["-n", name, "link", "set", link, "up"]


def run_inside(script):
    """Runs `script RUN` in the switch's namespace; its exit code."""
    run = os.getpid()
    with made_namespaces([name_of(host, run) for host in ("switch", *HOSTS)], commands(run)):
        return subprocess.run(["ip", "netns", "exec", name_of("switch", run), sys.executable, script,
                               str(run)]).returncode


class Host:
    """One of HOSTS, seen from the switch."""

    def __init__(self, role, run):
        self.role, self.name, self.address = role, name_of(role, run), HOSTS[role]

    def command(self, *words):
        """`words` as a command there."""
        return ["ip", "netns", "exec", self.name, *map(str, words)]

    def run(self, *words, **more):
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=True,
                              **more).stdout

    def plug(self, on):
        """Its cable, at the switch's end."""
        done = ip("link", "set", self.role, "up" if on else "down")
        assert done.returncode == 0, done.stderr

    def lose(self, percent):
        """Drops so many of the packets that arrive, at random."""
        self.run("nft", "-f", "-", input=(
            "table inet loss {\n chain arriving {\n  type filter hook prerouting priority -400\n"
            f"  iifname {LINK} numgen random mod 100 < {percent} counter drop\n }}\n}}\n"))

    def lost(self):
        """Packets dropped so far; then no more are."""
        rules = json.loads(self.run("nft", "-j", "list", "table", "inet", "loss"))
        self.run("nft", "delete", "table", "inet", "loss")
        return next(part["counter"]["packets"] for entry in rules["nftables"] if "rule" in entry
                    for part in entry["rule"]["expr"] if "counter" in part)

    def listening(self):
        """{(protocol, address, port): program} of all sockets that take what comes."""
        found = {}
        for line in self.run("ss", "-H", "-n", "-l", "-t", "-u", "-p").splitlines():
            protocol, _, _, _, local, _, *rest = line.split()
            address, port = local.rsplit(":", 1)
            program = re.search(r'\(\("([^"]+)"', " ".join(rest))
            # An IPv4 address on a socket of both families shows as an IPv6 one.
            address = address.split("%")[0].strip("[]").removeprefix("::ffff:")
            found[protocol, address, int(port)] = program and program.group(1)
        return found

    def reachable(self, port):
        """Whether the switch can connect to it."""
        try:
            socket.create_connection((self.address, port), timeout=0.3).close()
        except OSError:
            return False
        return True

    def processes(self):
        return ip("netns", "pids", self.name).stdout.split()
