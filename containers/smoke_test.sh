#!/bin/sh
# Does the program run in this image, as anyone, without network, home or writable root?
#
#   smoke_test.sh          the programs answer and their parts load
#   smoke_test.sh --full   also: simulated participants through the participant level (minutes)
set -eu

say() { printf 'smoke test: %s\n' "$*"; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

say "programs"
for program in kraken-bids kraken-model kraken-submit kraken-demo; do
    "$program" --version >/dev/null
    "$program" --help >/dev/null
done
for program in mrconvert dwi2response dwi2fod tckgen tck2connectome tckmap; do
    command -v "$program" >/dev/null || { say "MRtrix3's $program is missing"; exit 1; }
done
tckgen -version >/dev/null
/run.py --version >/dev/null

say "atlases and models in the image: $(ls -x /opt/kraken-bids/resources)"

say "parts"
python - <<'PYTHON'
import importlib
import json
import pkgutil
import sys

import kraken_bids

for module in pkgutil.walk_packages(kraken_bids.__path__, "kraken_bids."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import matplotlib.figure
import nilearn
import torch

with open("/opt/kraken-bids/boutiques.json") as stream:
    assert json.load(stream)["tool-version"] == kraken_bids.__version__
print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, GPU: {torch.cuda.is_available()}")
PYTHON

say "an unknown option is told with exit code 2"
code=0
kraken-bids --no-such-option >/dev/null 2>&1 || code=$?
[ "$code" = 2 ] || { say "exit code $code"; exit 1; }

if [ "${1:-}" = --full ]; then
    say "simulated participants"
    kraken-demo data "$folder/data" --tiny --participants 2
    kraken-bids "$folder/data" "$folder/results" participant --sloppy --streamlines 2k \
        --atlas-file "shen268=$folder/data/atlases/shen268_dseg.nii.gz" \
        "coco439=$folder/data/atlases/coco439_dseg.nii.gz" --work-dir "$folder/work" \
        --pcorr-lambda fs86=0.06 shen268=0.06 coco439=0.06
    count=$(find "$folder/results" -name '*_relmat.tsv' | wc -l)
    say "$count connectomes"
    [ "$count" = 42 ] || { say "42 were expected"; exit 1; }
fi
say "passed"
