"""The job scripts of examples/slurm: stopped, requeued and resumed. Stand-ins for Slurm; all else is real."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from utils.serialization import load_plain

OPTIONS = (
    "--image-size 40 --width 0.125 --batch-size 8 --lr 0.01 --lr-steps 1 --threads 1 --precision fp32 --no-plots"
    " --device cpu --epochs 30"
).split()


@pytest.fixture
def cluster(small_faces_once, tmp_path):
    """A folder with main.py, and the environment of a job in it."""
    labels, images = small_faces_once
    (tmp_path / "bin").mkdir()
    for name, script in {"srun": 'exec "$@"', "scontrol": f'echo "$@" >> {tmp_path}/asked; echo 127.0.0.1'}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "main.py").symlink_to(ROOT / "main.py")
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "70", "SLURM_JOB_ID": "71", "SLURM_NNODES": "1"}
    job |= {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_GPUS_ON_NODE": "2", "PATH": path}
    return tmp_path, {**os.environ, **job}, ["--label-dir", labels, "--image-dir", images, *OPTIONS]


@pytest.mark.parametrize(
    ("script", "fold", "more", "requeue"),
    [("folds", 3, (), "requeue 70_3"), ("nodes", 1, ("--folds", 1), "requeue 71")],
)
def test_a_stopped_job_is_requeued_and_resumes(cluster, script, fold, more, requeue):
    folder, environment, options = cluster
    command = ["bash", ROOT / "examples" / "slurm" / f"{script}.sbatch", *map(str, options), *map(str, more)]
    begin = lambda: subprocess.Popen(  # noqa: E731
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    job, progress = begin(), folder / "runs" / script / f"fold_{fold}.progress.pt"
    limit = time.monotonic() + 120
    while not progress.exists():
        assert job.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    job.terminate()
    output, _ = job.communicate(timeout=60)
    assert job.returncode != 0 and "stopping after this step" in output
    begun = len(load_plain(progress)["history"])
    assert (folder / "asked").read_text().splitlines()[-1] == requeue
    job = begin()
    output, _ = job.communicate(timeout=200)
    assert job.returncode == 0, output
    assert f"epoch {begun + 1:3d}/30" in output and f"epoch {begun:3d}/30" not in output
    assert load_plain(folder / "runs" / script / f"fold_{fold}.pt")["train_faces"] == 32
