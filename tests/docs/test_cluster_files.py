"""The files of examples/cluster: valid YAML and shell, and commands that pycat has."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from pycat.cli.main import argument_parser

FOLDER = Path(__file__).parents[2] / "examples" / "cluster"


def documents(name: str) -> list[dict[str, Any]]:
    return [*yaml.safe_load_all((FOLDER / name).read_text("utf-8"))]


def pycat_commands(text: str) -> list[list[str]]:
    """What follows `pycat` on a command line, in words."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = [line for line in joined.splitlines() if not line.lstrip().startswith("#")]
    found = [
        re.search(r"(?:^|\s)(?:-m )?pycat ((?:tokenize|train|score|select) .*)", line)
        for line in lines
    ]
    return [shlex.split(match[1]) for match in found if match]


def test_the_shell_script_is_one(tmp_path: Path) -> None:
    subprocess.run(["bash", "-n", str(FOLDER / "slurm.sh")], check=True)
    assert (FOLDER / "slurm.sh").stat().st_mode & 0o111


def test_the_slurm_script_starts_what_pycat_has() -> None:
    commands = pycat_commands((FOLDER / "slurm.sh").read_text("utf-8"))
    assert [words[0] for words in commands] == ["tokenize", "train", "score", "select"]
    for words in commands:
        argument_parser().parse_args(words)


def test_the_slurm_script_runs_its_steps_in_order_and_removes_its_token(tmp_path: Path) -> None:
    # Stand-ins for what Slurm and the nodes have; each writes down how it was called.
    log = tmp_path / "log"
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("scontrol", "srun", "pycat"):
        says = (
            "echo node1; sleep 0.2; echo node2"
            if name == "scontrol"
            else 'test -s "$RAY_AUTH_TOKEN_PATH"'
        )
        (programs / name).write_text(f'#!/bin/bash\necho "{name} $*" >> {log}\n{says}\n')
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": "7",
    }
    out = tmp_path / "out folder"
    words = ["/bin/bash", str(FOLDER / "slurm.sh"), "a.en", "a.de", str(out)]
    subprocess.run(words, env=environment, check=True)
    calls = log.read_text().splitlines()
    assert [re.findall(r"(?:pycat )(\w+)", call)[-1:] for call in calls[1:]] == [
        ["tokenize"],
        ["train"],
        ["score"],
        ["select"],
    ]
    assert calls[1].startswith(
        "srun ray symmetric-run --address node1:6379 --min-nodes 2 --dashboard-host 127.0.0.1 -- "
        "env RAY_ADDRESS=node1:6379 pycat tokenize --src a.en --tgt a.de"
    )
    assert calls[1].endswith("--on auto") and "--on" not in calls[2]
    assert not [*out.iterdir()]


def test_the_cluster_of_ray_has_nodes_and_a_token() -> None:
    [cluster] = documents("ray-cluster.yaml")
    assert cluster["provider"]["type"] == "local"
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert commands[-1].startswith("RAY_AUTH_MODE=token ray start ")
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]


def test_the_manifest_of_kuberay_scores_behind_a_token_and_a_policy() -> None:
    job, policy = documents("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    [group] = cluster["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    labels = policy["spec"]["podSelector"]["matchLabels"]
    for template in (
        cluster["headGroupSpec"]["template"],
        group["template"],
        job["spec"]["submitterPodTemplate"],
    ):
        assert template["metadata"]["labels"] == labels
    [words] = pycat_commands(job["spec"]["entrypoint"])
    assert words[0] == "score" and words[-2:] == ["--on", "auto"]
    argument_parser().parse_args(words[:-2])


def test_the_job_of_kubernetes_meets_at_its_first_pod() -> None:
    service, job = documents("kubernetes-train.yaml")
    spec = job["spec"]
    [container] = spec["template"]["spec"]["containers"]
    command = container["command"]
    options = dict(word.split("=", 1) for word in command if word.startswith("--") and "=" in word)
    assert int(options["--nnodes"]) == spec["completions"] == spec["parallelism"]
    assert options["--rdzv-endpoint"].startswith(f"{job['metadata']['name']}-0.")
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert options["--nproc-per-node"] == gpus
    argument_parser().parse_args(command[command.index("pycat") + 1 :])


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_every_file_is_in_the_table(path: Path) -> None:
    readme = (FOLDER / "README.md").read_text("utf-8")
    assert path.name == "README.md" or f"`{path.name}`" in readme
