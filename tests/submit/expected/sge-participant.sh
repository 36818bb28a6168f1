#!/bin/bash
#$ -N kraken
#$ -S /bin/bash
#$ -cwd
#$ -pe smp 4
#$ -l h_vmem=3815M
#$ -l h_rt=24:30:00
#$ -j y
#$ -o /data/out/logs/submit/one/
#$ -t 1-3
#$ -tc 2
#$ -q long
#$ -P lab
#$ --odd

export LOGNAME="${LOGNAME:-$(id -un)}"
module load mrtrix3
set -u  # only now: what sites have people load often reads unset variables

list=/data/out/logs/submit/one/kraken.txt
task=${SGE_TASK_ID:-1}
case "$task" in "" | *[!0-9]* | 0) task=1 ;; esac  # no array, but a single job
read -r -a labels <<< "$(sed -n "${task}p" "$list")"
if [ ${#labels[@]} -eq 0 ]; then
    echo "line $task of $list names no participant" >&2
    exit 2
fi

kraken-bids '/data/my study' /data/out participant --participant-label "${labels[@]}" &
child=$!
trap 'kill -TERM "$child"' TERM USR1 USR2 XCPU
wait "$child"
code=$?
[ "$code" -lt 128 ] || { wait "$child"; code=$?; }  # a signal ended the first wait
[ "$code" -ne 0 ] || touch /data/out/logs/submit/one/kraken.done."$task"
exit "$code"
