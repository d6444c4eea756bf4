#!/usr/bin/env bash
# A table of models in one run on this machine's GPU, with the yardstick beside each: in Node, and, where pack.sh's
# browser is unpacked too, in Chromium.
#   usage: run_gpu.sh [MODEL ...]     MODEL as in bench.py: synthetic:SHAPE:FORMAT[@DEPTH][=fast][+]; a table if none
#   environment: RIG (/tmp/rig), SOURCE (the checkout this file is in), RESULTS (results.json), MODELS (/tmp/models),
#                SIZES ("512 128 3": prompt, generated, repetitions), BROWSER (/tmp/browser), FLAGS of
#                `llamaweb bench` ("--gpu"), RUNTIMES ("node chromium"), TUNE (in Node: "auto", "off" for default kernels)
# Memory and loading: RUNTIMES=chromium FLAGS="--gpu --loading" run_gpu.sh MODEL ..., of models that are in MODELS already
# (a run in Node leaves them there); what each fusion brings: the same with --fusions. split.py cuts one into parts, of which any is a MODEL. tables.py writes the README.
set -euo pipefail
source=${SOURCE:-$(dirname "$(dirname "$(realpath "$0")")")}
rig=${RIG:-/tmp/rig} results=${RESULTS:-results.json} models=${MODELS:-/tmp/models} browser=${BROWSER:-/tmp/browser}
read -r prompt generated reps <<<"${SIZES:-512 128 3}"
[ $# -gt 0 ] || set -- synthetic:smollm2-135m:Q4_0+ synthetic:llama-3.2-1b:Q4_0+ synthetic:llama-3.2-1b:Q4_0@4096 \
  synthetic:llama-3.2-1b:Q{2,3,5,6}_K synthetic:llama-3.2-1b:Q8_0 synthetic:llama-3.1-8b:Q4_K+
mkdir -p "$models"
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
runtimes=${RUNTIMES:-node chromium}
[[ $runtimes != *node* ]] || "$rig/node" "$rig/node.mjs" "$rig/dist" "$source" "$source/benchmarks/bench.py" \
  "$results" "$models" "$rig/donor.gguf" "$prompt" "$generated" "$reps" "$@"

[[ $runtimes == *chromium* ]] && [ -x "$browser/chromium/chromium-headless-shell" ] || exit 0
mkdir -p /etc/fonts && cp -rn "$browser/fonts/." /etc/fonts/ || true
bin=$(mktemp -d) && trap 'rm -rf "$bin"' EXIT
chromium=$bin/chromium-headless-shell # with the libraries it was packed with
printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$browser/lib" "$browser/chromium/${chromium##*/}" >"$chromium"
chmod +x "$chromium"
export PYTHONPATH=$source/src:$browser/site XDG_CACHE_HOME=$rig/cache
for asked in "$@"; do
  name=${asked%+} depth=0 precision=high
  case $name in *=*) precision=${name#*=} name=${name%=*} ;; esac
  case $name in *@*) depth=${name#*@} name=${name%@*} ;; esac
  case $name in synthetic:*) name=${name#synthetic:} name=$models/synthetic-${name/:/-}.gguf ;; esac
  # shellcheck disable=SC2086  # FLAGS are words
  python3 -m llamaweb.host.cli bench "$name" --chrome "$chromium" ${FLAGS---gpu} --floor --prompt-tokens "$prompt" \
    --gen-tokens "$generated" --reps "$reps" --depth "$depth" --precision "$precision" --output "$results" || true
done
