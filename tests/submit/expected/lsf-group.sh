#!/bin/bash
#BSUB -J "kraken-group"
#BSUB -n 2
#BSUB -R "span[hosts=1] rusage[mem=7630MB]"
#BSUB -M 7630MB
#BSUB -W 01:30
#BSUB -o /data/out/logs/submit/one/kraken-group-%J.log
#BSUB -gpu "num=1"

export LOGNAME="${LOGNAME:-$(id -un)}"
set -u  # only now: what sites have people load often reads unset variables

exec kraken-bids '/data/my study' /data/out group
