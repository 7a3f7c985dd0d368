#!/bin/bash
#SBATCH --job-name=pycat
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --time=24:00:00
#
# A whole run on the nodes of one job: sbatch slurm.sh TEXT.en TEXT.de FOLDER
#
# FOLDER lies on a file system that all nodes share. An environment with pycat-nmt[ray] is active. If
# the job is cut off, the same command goes on where it was.
set -euo pipefail

src=$1 tgt=$2 folder=$3
mkdir -p "$folder"

# The first node is head of Ray, and where the ranks meet. The list is read to its end: a reader that
# stops after one line may end scontrol by SIGPIPE, and this script with it.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}

# Only who has the token runs code on the nodes. It is made for this job, and readable by its user.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/.ray-token-$SLURM_JOB_ID
(umask 077 && python3 -c 'import secrets; print(secrets.token_hex(32))' > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

# Run a verb on the first node; with --on auto its work is shared out over all nodes.
on_ray() {
  srun ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --dashboard-host 127.0.0.1 -- env RAY_ADDRESS="$head:6379" "$@" --on auto
}

on_ray pycat tokenize --src "$src" --tgt "$tgt" --out "$folder/corpus"

# Eight ranks a node; every rank takes a device of its own.
srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node 8 --max-restarts 8 \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head:29400" \
  -m pycat train --corpus "$folder/corpus" --out "$folder/proxy" --batch-tokens 131072

on_ray pycat score --corpus "$folder/corpus" --checkpoints "$folder/proxy" \
  --out "$folder/scores" --device cuda --dtype bfloat16
pycat select --scores "$folder/scores" --keep 0.5 --out "$folder/selection"
