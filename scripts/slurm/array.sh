#!/usr/bin/env bash
# Many runs as one job array, a task each:
#
#   sbatch scripts/slurm/array.sh                              the runs below
#   sbatch --array=0-99 scripts/slurm/array.sh runs.txt        the lines of a file, each what follows vae-train
#
# Run it from the folder that holds logs/. Edit the lines with <--. A task whose time ends, or that is preempted, goes on with its run when Slurm starts it again.
#
#SBATCH --job-name=vae
#SBATCH --array=0-5              # <-- one number a run
#SBATCH --time=04:00:00          # <-- of a task; what is not done by then has been saved, and waits for its next turn
#SBATCH --cpus-per-task=4
##SBATCH --gpus-per-node=1       # <-- take away one # where there are GPUs
#SBATCH --signal=USR1@120        # two minutes before the end a run is asked to save
#SBATCH --requeue
#SBATCH --open-mode=append       # a task that is started again adds to its output
#SBATCH --output=slurm-%A_%a.txt
set -euo pipefail

runs=(latent_dim={8,32,128}\ seed={0,1}) # <-- a grid, or one line in quotes after the other: "experiment=reference seed=0" ...
if [ $# -gt 0 ]; then mapfile -t runs <"$1"; fi
# source .venv/bin/activate       # <-- whatever puts vae-train on the PATH

if [ "$SLURM_ARRAY_TASK_ID" -ge ${#runs[@]} ]; then
    echo "there are ${#runs[@]} runs: --array=0-$((${#runs[@]} - 1))" >&2
    exit 2
fi
read -ra words <<<"${runs[$SLURM_ARRAY_TASK_ID]}"
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

status=0
srun --cpus-per-task="$OMP_NUM_THREADS" vae-train trainer.enable_progress_bar=false "${words[@]}" || status=$?
if [ $status = 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then # saved: on in the next turn
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
