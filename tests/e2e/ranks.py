"""Ranks of a replica as a supervisor would start them, and a network between them and the coordinator
that can be cut."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import threading

from harness import BIN


class Ranks:
    """mpirun with real workers, and what they print."""

    def __init__(self, address, count, *flags):
        command = ["mpirun", "-n", str(count), "--oversubscribe", "--bind-to", "none",
                   "--mca", "mpi_yield_when_idle", "1", "--mca", "btl", "self,vader",
                   "--mca", "btl_vader_single_copy_mechanism", "none",
                   str(BIN / "shardline-worker"), "--coordinator", address, "--threads", "1",
                   *map(str, flags)]
        if os.geteuid() == 0:
            command.insert(1, "--allow-run-as-root")
        self.mpirun = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       text=True)

    def end(self):
        """(exit code, output); fails when they do not leave by themselves."""
        try:
            output, _ = self.mpirun.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.mpirun.terminate()
            raise
        return self.mpirun.returncode, output

    def kill(self):
        """Ends them whatever state they are in."""
        children = pathlib.Path(f"/proc/{self.mpirun.pid}/task/{self.mpirun.pid}/children")
        with contextlib.suppress(OSError):
            for rank in children.read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(rank), signal.SIGKILL)
        self.mpirun.terminate()
        self.mpirun.communicate()


class Network:
    """A TCP relay to `target`. A cut connection stays open and carries nothing more, as when a cable
    is pulled; held ones carry nothing yet."""

    def __init__(self, target):
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.lock = threading.Lock()
        self.links = []  # (cut event, sockets), newest last
        self.held_from = None  # connections from this one on are held
        self.released = threading.Event()
        self.closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near):
        with self.lock:
            number = len(self.links)
            hold = self.held_from is not None and number >= self.held_from
            cut, sockets = threading.Event(), [near]
            self.links.append((cut, sockets))
        if hold:
            self.released.wait()
        if self.closed:
            return
        host, port = self.target.rsplit(":", 1)
        try:
            far = socket.create_connection((host, int(port)))
        except OSError:
            return near.close()  # nobody is there now
        sockets.append(far)
        for one in (near, far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._carry, args=(source, sink, cut), daemon=True).start()

    def _carry(self, source, sink, cut):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if cut.is_set():
                    return  # and neither side hears that
                sink.sendall(data)
        if not cut.is_set():
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def hold_after(self, count):
        """Of the connections made from now on, only the first `count` are carried, until release."""
        with self.lock:
            self.held_from = len(self.links) + count
            self.released = threading.Event()

    def release(self):
        with self.lock:
            self.held_from = None
            self.released.set()

    def cut(self, back=1):
        """Cuts the connection that was made last but `back` - 1."""
        self.links[-back][0].set()

    def close(self):
        self.closed = True
        self.release()
        self.listener.close()
        for cut, sockets in self.links:
            cut.set()
            for one in sockets:
                one.close()
