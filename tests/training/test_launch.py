"""The launch examples: syntax, two nodes on this machine, a SLURM of three commands, SkyPilot's parser."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from tests.training.ranks import free_port, newest, train_flags

SCRIPTS = ["one-node.sh", "many-nodes.sh", "slurm.sbatch"]
SETTINGS = {"loss.objective": "hinge", "train.duration": 16}


@pytest.fixture
def launch(repository):
    return repository / "launch"


@pytest.mark.parametrize("script", SCRIPTS)
def test_shell_accepts_it(launch, script):
    subprocess.run(["bash", "-n", str(launch / script)], check=True)
    assert os.access(launch / script, os.X_OK) or script == "slurm.sbatch"
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", str(launch / script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def run(command, environment=(), **options):
    """Starts a script with this Python; its words come with communicate()."""
    return subprocess.Popen(
        [str(word) for word in command],
        env={**os.environ, "PYTHON": sys.executable, "PROCESSES": "1", **dict(environment)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


def test_two_nodes_are_two_global_ranks_and_the_first_writes(launch, images, tmp_path):
    """Both processes are local rank 0 of their node."""
    out, port = tmp_path / "run", str(free_port())
    nodes = [
        run(
            ["bash", launch / "many-nodes.sh", *train_flags(images, out, SETTINGS)[1:]],
            {"NODES": "2", "NODE_RANK": str(rank), "FIRST_NODE": "127.0.0.1", "PORT": port},
        )
        for rank in (0, 1)
    ]
    # torchrun waits up to 300 s for a node that went; what both said is wanted then.
    said = [node.communicate(timeout=400)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(said)
    assert "2 processes on cpu" in said[0]
    assert "finished: 16 images" in said[0]
    assert "finished" not in said[1]
    record, _ = newest(out)
    assert (record["world"], record["images_seen"]) == (2, 16)


def test_many_nodes_without_its_place_says_what_to_set(launch):
    node = run(["bash", launch / "many-nodes.sh", "--out", "run"], {"NODES": "2"})
    said, _ = node.communicate(timeout=20)
    assert node.returncode == 2
    assert "NODE_RANK is not set; e.g. NODES=2 NODE_RANK=0 FIRST_NODE=10.0.0.1" in said


# SLURM
# -------------------------------------------------------------------------------------------------------

FAKES = {
    # squeue --format %L; nodes, and requeues noted; a task per node; a quick one in place of torchrun
    "squeue": "echo ${FAKE_LEFT:-UNLIMITED}",
    "scontrol": 'if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$FAKE_LOG"; fi',
    "srun": 'shift; export SLURM_NODEID=0; exec "$@"',
    "launcher": 'TORCHELASTIC_RUN_ID=none exec "$PYTHON" -m gansmith train "$@"',
}


@pytest.fixture
def slurm(launch, images, tmp_path):
    """slurm(settings, left): a job of one node; returns (exit code, words, what scontrol was asked)."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in FAKES.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)

    def submit(settings, environment=(), flags=None, during=None):
        log = tmp_path / "scontrol.log"
        log.unlink(missing_ok=True)
        job = run(
            [
                "bash",
                launch / "slurm.sbatch",
                *(train_flags(images, tmp_path / "run", SETTINGS | settings)[1:] if flags is None else flags),
            ],
            {
                "PATH": f"{programs}:{os.environ['PATH']}",
                "SLURM_JOB_ID": str(free_port()), "SLURM_JOB_NODELIST": "localhost",
                "SLURM_JOB_NUM_NODES": "1", "SLURM_SUBMIT_DIR": str(launch.parent),
                "RESTARTS": "0", "FAKE_LOG": str(log), "LAUNCHER": str(programs / "launcher"),
                **dict(environment),
            },
        )  # fmt: skip
        if during:
            during(job)
        said, _ = job.communicate(timeout=300)
        return job.returncode, said, log.read_text() if log.exists() else ""

    return submit


def test_slurm_stops_before_the_limit_requeues_until_finished_and_then_no_more(slurm, tmp_path):
    code, said, asked = slurm({"train.duration": 80000}, {"FAKE_LEFT": "00:06"})
    assert "stopped by the time limit" in said, said
    assert "unfinished" in said
    assert code == 0
    assert asked.startswith("requeue ")
    seen = newest(tmp_path / "run")[0]["images_seen"]
    code, said, asked = slurm({"train.duration": seen + 8}, {"FAKE_LEFT": "1-00:00:00"})
    assert (code, asked) == (0, ""), said
    assert f"{seen + 8:,} of {seen + 8:,} images, finished" in said


def test_slurm_does_not_requeue_what_fails_at_once(slurm):
    code, said, asked = slurm({"train.batch": 7})
    assert code != 0
    assert asked == ""
    assert "error: " in said
    code, said, asked = slurm({}, flags=["--data", "images"])
    assert (code, asked) == (2, "")
    assert "--out is missing" in said


def test_slurm_passes_sigterm_on_and_waits_for_the_save(slurm, launch, tmp_path):
    def preempt(job):
        log = tmp_path / "run" / "metrics.jsonl"
        while job.poll() is None and not (log.exists() and '"checkpoint"' in log.read_text()):
            time.sleep(0.05)
        job.terminate()

    through_torchrun = {"LAUNCHER": str(launch / "many-nodes.sh")}
    _, said, asked = slurm({"train.duration": 80000}, through_torchrun, during=preempt)
    assert "stopped by SIGTERM" in said
    assert "unfinished" in said
    assert asked.startswith("requeue ")


# SkyPilot
# -------------------------------------------------------------------------------------------------------


def sky_python():
    """A Python that has SkyPilot: $SKY_PYTHON, or the one beside `sky` on the path."""
    if named := os.environ.get("SKY_PYTHON"):
        return named
    program = shutil.which("sky")
    return os.path.join(os.path.dirname(os.path.realpath(program)), "python") if program else None


def test_skypilot_reads_the_task(launch, tmp_path):
    if not sky_python():
        pytest.skip("needs SkyPilot: `pip install skypilot` somewhere, and SKY_PYTHON naming its Python")
    code = (
        "import json, sky; t = sky.Task.from_yaml('launch/skypilot.yaml'); r = list(t.resources)[0]; "
        "print(json.dumps([t.num_nodes, all(r.use_spot for r in t.resources), list(t.storage_mounts)]))"
    )
    done = subprocess.run(
        [sky_python(), "-c", code], cwd=launch.parent, env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [1, True, ["/runs"]]


def test_skypilot_task_calls_what_exists(launch):
    import yaml

    task = yaml.safe_load((launch / "skypilot.yaml").read_text())
    subprocess.run(["bash", "-n"], input=task["setup"] + task["run"], text=True, check=True)
    assert "bash launch/many-nodes.sh" in task["run"]
    assert task["resources"]["use_spot"] is True
    assert task["file_mounts"]["/runs"]["mode"] == "MOUNT_CACHED"
