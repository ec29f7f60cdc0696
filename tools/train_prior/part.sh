#!/usr/bin/env bash
# One part of the animals' training: bash tools/train_prior/part.sh ANIMALS.npz WORK MINUTES OUT
# Autoencoder and denoiser in one process, oracle, encoder and extractor in another, on a GPU of its own if there are two.
# Then a report of about a minute. OUT gets, while it runs and at the end, what another machine needs to go on (copy it
# into WORK/packed there), the log and the sheets. PYTHON, PRESET and DEVICE are taken from the environment.
set -u
animals=$1 work=$2 minutes=$3 out=$4
run=("${PYTHON:-python3}" "$(dirname "$0")/run.py" --preset "${PRESET:-animals}" --animals "$animals" --work "$work" --device "${DEVICE:-cuda}")
mkdir -p "$work/packed" "$out"
collect() { cp -f "$work"/packed/*.safetensors "$work/log.jsonl" "$out/" 2>/dev/null; chmod a+r "$out"/* 2>/dev/null; }
other=0
[ "$(nvidia-smi -L 2>/dev/null | wc -l)" -gt 1 ] && other=1
"${run[@]}" --minutes "$minutes" --stages vae denoiser >"$work/first.txt" 2>&1 &
first=$!
CUDA_VISIBLE_DEVICES=$other "${run[@]}" --minutes "$minutes" --stages oracle encoder extractor >"$work/second.txt" 2>&1 &
second=$!
trap 'kill -TERM $first $second' TERM INT
(while sleep 40; do collect; done) &
collecting=$!
wait $first
wait $second
kill $collecting
collect
"${run[@]}" --stages report >"$work/report.txt" 2>&1
collect
tar czf "$out/sheets.tgz" -C "$work" sheets first.txt second.txt report.txt
for name in first second report; do
  grep -v '^{' "$work/$name.txt" | tail -n 12 | cut -c1-300
done
grep -v per_s "$work/log.jsonl" | tail -n 30 | cut -c1-420
for part in vae denoiser oracle encoder extractor; do
  grep "\"part\": \"$part\".*per_s" "$work/log.jsonl" | tail -n 2
done
