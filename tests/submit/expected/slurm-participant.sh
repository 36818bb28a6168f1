#!/bin/bash
#SBATCH --job-name=kraken
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=15259M
#SBATCH --time=24:30:00
#SBATCH --output=/data/out/logs/submit/one/%x-%A_%a.log
#SBATCH --array=1-3%2
#SBATCH --partition=long
#SBATCH --account=lab
#SBATCH --odd

export LOGNAME="${LOGNAME:-$(id -un)}"
module load mrtrix3
set -u  # only now: what sites have people load often reads unset variables

list=/data/out/logs/submit/one/kraken.txt
task=${SLURM_ARRAY_TASK_ID:-1}
case "$task" in "" | *[!0-9]* | 0) task=1 ;; esac  # no array, but a single job
read -r -a labels <<< "$(sed -n "${task}p" "$list")"
if [ ${#labels[@]} -eq 0 ]; then
    echo "line $task of $list names no participant" >&2
    exit 2
fi

exec kraken-bids '/data/my study' /data/out participant --participant-label "${labels[@]}"
