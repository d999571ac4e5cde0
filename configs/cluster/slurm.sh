#!/bin/bash
# sbatch configs/cluster/slurm.sh STORE -c configs/extract/X.yaml --set data.root=DATA
# One Ray node per machine; the arguments are those of `lens-cache extract`. Submit a job that ran
# out of time again, with the same arguments: it resumes.
#SBATCH --job-name=lens-cache
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --requeue

set -euo pipefail
source "$SLURM_SUBMIT_DIR/.venv/bin/activate"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Since Slurm 22.05 srun does not inherit --cpus-per-task: Ray would have one core per node.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --cpu-bind=none \
  ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-gpus 8 --num-cpus "$SLURM_CPUS_PER_TASK" -- lens-cache extract "$@" --address auto
