#!/bin/bash
#BSUB -J "kraken[1-3]%2"
#BSUB -n 4
#BSUB -R "span[hosts=1] rusage[mem=15259MB]"
#BSUB -M 15259MB
#BSUB -W 24:30
#BSUB -o /data/out/logs/submit/one/kraken-%J_%I.log
#BSUB -q long
#BSUB -P lab
#BSUB --odd

export LOGNAME="${LOGNAME:-$(id -un)}"
module load mrtrix3
set -u  # only now: what sites have people load often reads unset variables

list=/data/out/logs/submit/one/kraken.txt
task=${LSB_JOBINDEX:-1}
case "$task" in "" | *[!0-9]* | 0) task=1 ;; esac  # no array, but a single job
read -r -a labels <<< "$(sed -n "${task}p" "$list")"
if [ ${#labels[@]} -eq 0 ]; then
    echo "line $task of $list names no participant" >&2
    exit 2
fi

exec kraken-bids '/data/my study' /data/out participant --participant-label "${labels[@]}"
