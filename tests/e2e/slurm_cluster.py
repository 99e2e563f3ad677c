"""A real Slurm on this host: munge, a controller and several nodes, all in one temporary folder."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

CONFIG = """
ClusterName=shardline
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
DebugFlags=NO_CONF_HASH
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=pmix
JobRequeue=1
KillWait=5
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Slurm:
    """`with Slurm(nodes=2) as slurm: slurm.run("sbatch", ...)`. Needs root."""

    def __init__(self, nodes=2, cpus=4):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="shardline-slurm."))
        self.names = [f"node{i + 1}" for i in range(nodes)]
        self.cpus = cpus
        self.daemons = {}
        self.environment = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__(RuntimeError, None, None)
            raise
        return self

    def start(self):
        host = socket.gethostname()
        nodes = "\n".join(f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 "
                          f"Port={free_port()} CPUs={self.cpus} State=UNKNOWN"
                          for name in self.names)
        config = CONFIG.format(host=host, port=free_port(), folder=self.folder, nodes=nodes)
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        (self.folder / "slurm.conf").write_text(config)
        for name in self.names:
            # PMIx's files of two nodes must not meet in one folder, as they would on one host.
            own = self.folder / f"{name}.conf"
            for folder in (own, self.folder / name, own / "pmix"):
                folder.mkdir()
            (own / "slurm.conf").write_text(config)
            (own / "mpi.conf").write_text(f"PMIxCliTmpDirBase={own / 'pmix'}\n")
        self.spawn("munged", "--foreground", "--force", f"--key-file={key}",
                   f"--socket={self.folder}/munge.socket", f"--pid-file={self.folder}/munge.pid",
                   f"--log-file={self.folder}/munge.log", f"--seed-file={self.folder}/munge.seed")
        self.wait_for(lambda: (self.folder / "munge.socket").exists(), "munged")
        self.spawn("slurmctld", "-D", "-f", self.folder / "slurm.conf")
        for name in self.names:
            self.spawn("slurmd", "-D", "-N", name, "-f", self.folder / f"{name}.conf/slurm.conf",
                       key=name)
        self.wait_for(lambda: self.run("sinfo", "-h", "-N", "-o", "%t").split()
                      == ["idle"] * len(self.names), "idle nodes")

    def spawn(self, program, *arguments, key=None):
        log = open(self.folder / f"{key or program}.out", "w")
        self.daemons[key or program] = subprocess.Popen(
            [shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"),
             *map(str, arguments)], stdout=log, stderr=subprocess.STDOUT, env=self.environment)
        log.close()

    def run(self, *command, check=True, **more):
        """stdout of a Slurm command."""
        result = subprocess.run([str(word) for word in command], text=True, capture_output=True,
                                timeout=60, env=self.environment | more)
        if check and result.returncode != 0:
            raise RuntimeError(f"{command}: {result.stderr}{result.stdout}")
        return result.stdout

    def submit(self, *arguments, **environment):
        return self.run("sbatch", "--parsable", *arguments, **environment).strip()

    def state(self, job):
        """PENDING, RUNNING, COMPLETED, ...; empty when Slurm has forgotten the job."""
        text = self.run("scontrol", "-o", "show", "job", job, check=False)
        return text.partition("JobState=")[2].split(" ")[0]

    def wait_for(self, condition, what, seconds=60):
        deadline = time.time() + seconds
        while not (result := self.ask(condition)):
            if time.time() > deadline:
                raise AssertionError(f"not within {seconds} s: {what}\n{self.logs()}")
            time.sleep(0.1)
        return result

    @staticmethod
    def ask(condition):
        try:
            return condition()
        except (RuntimeError, OSError):
            return None

    def logs(self, lines=15):
        text = ""
        for path in sorted(self.folder.glob("*.log")) + sorted(self.folder.glob("*.out")):
            text += f"--- {path.name}\n" + "\n".join(path.read_text().splitlines()[-lines:]) + "\n"
        return text

    def __exit__(self, kind, value, trace):
        if kind is not None:
            print(self.logs())
        if "slurmctld" in self.daemons:
            self.run("scancel", "--user=root", "--full", check=False)
        for daemon in reversed(self.daemons.values()):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self.daemons.values():
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
