#!/bin/bash
#PBS -N kraken
#PBS -l nodes=1:ppn=4
#PBS -l mem=15259mb
#PBS -l walltime=24:30:00
#PBS -j oe
#PBS -o /data/out/logs/submit/one/
#PBS -t 1-3%2
#PBS -q long
#PBS -A lab
#PBS --odd

export LOGNAME="${LOGNAME:-$(id -un)}"
module load mrtrix3
set -u  # only now: what sites have people load often reads unset variables

list=/data/out/logs/submit/one/kraken.txt
task=${PBS_ARRAYID:-1}
case "$task" in "" | *[!0-9]* | 0) task=1 ;; esac  # no array, but a single job
read -r -a labels <<< "$(sed -n "${task}p" "$list")"
if [ ${#labels[@]} -eq 0 ]; then
    echo "line $task of $list names no participant" >&2
    exit 2
fi

exec kraken-bids '/data/my study' /data/out participant --participant-label "${labels[@]}"
