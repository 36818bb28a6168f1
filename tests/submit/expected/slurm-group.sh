#!/bin/bash
#SBATCH --job-name=kraken-group
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=7630M
#SBATCH --time=01:30:00
#SBATCH --output=/data/out/logs/submit/one/%x-%j.log
#SBATCH --gres=gpu:1

export LOGNAME="${LOGNAME:-$(id -un)}"
set -u  # only now: what sites have people load often reads unset variables

exec kraken-bids '/data/my study' /data/out group
