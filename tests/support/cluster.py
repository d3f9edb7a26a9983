"""A SLURM cluster of one node on this machine, of real daemons in a folder: two pretend GPUs, ended with the test."""

import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

WHERE = f"{os.environ['PATH']}:/usr/sbin:/sbin"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "setpriv")
CONF = """
ClusterName=pretend
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
GresTypes=gpu
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:2
PartitionName=main Nodes={host} Default=YES
"""
GRES = "".join(f"NodeName={{host}} Name=gpu File={device}\n" for device in ("/dev/zero", "/dev/full"))


class Cluster:
    """Daemons at work.

    Args:
        folder: Of all their files.
    """

    def __init__(self, folder):
        self.folder, self.host = folder, socket.gethostname().partition(".")[0]
        self.env = {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": "src"}
        self.daemons = []

    def start(self):
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        with socket.socket() as one, socket.socket() as two:
            ports = [each.bind(("127.0.0.1", 0)) or each.getsockname()[1] for each in (one, two)]
        (self.folder / "slurm.conf").write_text(CONF.format(host=self.host, folder=self.folder, ports=ports))
        (self.folder / "gres.conf").write_text(GRES.format(host=self.host))
        (self.folder / "key").write_bytes(os.urandom(128))
        (self.folder / "key").chmod(0o400)
        munge = {"key-file": "key", "socket": "munge.socket", "pid-file": "munge.pid"}
        munge |= {"log-file": "munge.log", "seed-file": "munge.seed"}
        self._daemon("munged", "--foreground", "--force", *(f"--{key}={self.folder / at}" for key, at in munge.items()))
        self._wait(lambda: (self.folder / "munge.socket").exists())
        self._daemon("slurmctld", "-D", "-i")
        self._daemon("slurmd", "-D")
        self._wait(lambda: self.ask("sinfo", "--noheader", "--format=%T") == "idle\n")

    def _daemon(self, *command):
        """Start one that ends with this process, however that ends."""
        with (self.folder / f"{command[0]}.out").open("wb") as out:
            words = ["setpriv", "--pdeathsig", "KILL", *command]
            process = subprocess.Popen(words, env=os.environ | self.env | {"PATH": WHERE}, stdout=out, stderr=out)
        self.daemons.append(process)

    def _wait(self, condition, limit=30.0):
        deadline = time.monotonic() + limit
        while not condition():
            out = "".join(path.read_text(errors="replace") for path in self.folder.glob("*.out"))
            assert all(one.poll() is None for one in self.daemons), out
            assert time.monotonic() < deadline, out
            time.sleep(0.1)

    def ask(self, *command):
        """Return what one of SLURM's commands prints."""
        return subprocess.run(command, env=os.environ | self.env, capture_output=True, text=True, check=False).stdout

    def jobs(self):
        """Return the state of every job that is remembered, by its name, the newest last."""
        text = self.ask("squeue", "--noheader", "--states=all", "--sort=i", "--format=%j %T")
        return [tuple(line.split()) for line in text.splitlines()]

    def clear(self):
        """Take all jobs away, and wait until they have left."""
        self.ask("scancel", "--user=root")
        self._wait(lambda: not self.ask("squeue", "--noheader"), 60.0)

    def end(self):
        for process in reversed(self.daemons):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def whole_cluster(tmp_path_factory):
    missing = [name for name in PROGRAMS if shutil.which(name, path=WHERE) is None]
    if missing or os.geteuid():
        pytest.skip(f"a cluster needs root, and slurm-wlm: {', '.join(missing) or 'root'} is missing")
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
        cluster.clear()
    finally:
        cluster.end()


@pytest.fixture
def cluster(whole_cluster):
    """A cluster without jobs."""
    yield whole_cluster
    whole_cluster.clear()
