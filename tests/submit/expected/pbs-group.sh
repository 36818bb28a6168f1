#!/bin/bash
#PBS -N kraken-group
#PBS -l select=1:ncpus=2:mem=7630mb:ngpus=1
#PBS -l walltime=01:30:00
#PBS -j oe
#PBS -o /data/out/logs/submit/one/

export LOGNAME="${LOGNAME:-$(id -un)}"
set -u  # only now: what sites have people load often reads unset variables

exec kraken-bids '/data/my study' /data/out group
