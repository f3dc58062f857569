#!/usr/bin/env bash
# One run on several nodes, a process a GPU:
#
#   sbatch scripts/slurm/multi_node.sh experiment=reference data.batch_size=1024
#
# Run it from the folder that holds logs/, which all nodes have to see. Edit the lines with <--. data.batch_size is that of all GPUs together, so the numbers are those
# of one GPU but for rounding.
#
#SBATCH --job-name=vae
#SBATCH --nodes=2                # <--
#SBATCH --ntasks-per-node=4      # <-- GPUs of a node
#SBATCH --gpus-per-node=4        # <-- the same number
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00          # what is not done by then has been saved, and waits for its next turn
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.txt
set -euo pipefail

# source .venv/bin/activate       # <-- whatever puts vae-train on the PATH
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

# --wait: where a process has died, the others would wait for it for ever
status=0
srun --cpus-per-task="$OMP_NUM_THREADS" --wait=120 vae-train trainer=ddp trainer.num_nodes="$SLURM_NNODES" trainer.devices="$SLURM_NTASKS_PER_NODE" \
    trainer.enable_progress_bar=false "$@" || status=$?
if [ $status = 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then # saved: on in the next turn
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
