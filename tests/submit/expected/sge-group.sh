#!/bin/bash
#$ -N kraken-group
#$ -S /bin/bash
#$ -cwd
#$ -pe smp 2
#$ -l h_vmem=3815M
#$ -l h_rt=01:30:00
#$ -l gpu=1
#$ -j y
#$ -o /data/out/logs/submit/one/

export LOGNAME="${LOGNAME:-$(id -un)}"
set -u  # only now: what sites have people load often reads unset variables

missing=
for task in $(seq 1 3); do
    [ -e /data/out/logs/submit/one/kraken.done."$task" ] || missing="$missing kraken:$task"
done
if [ -n "$missing" ]; then
    echo "not run, for these tasks have failed:$missing" >&2
    exit 1
fi

exec kraken-bids '/data/my study' /data/out group
