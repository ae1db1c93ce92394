#!/usr/bin/env bash
# A newcomer's first steps, as the README tells them, in a fresh clone and a fresh environment, each one timed.
# After the installation they should take ten minutes; the last line says whether they did, and so does the exit status.
#
#     tools/newcomer.sh             everything in a temporary folder, which is removed at the end
#     KEEP=1 tools/newcomer.sh      the folder stays, and its name is printed
set -euo pipefail

source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
place=$(mktemp -d)
limit=600
spent=0
if [ "${KEEP:-0}" = 1 ]; then echo "in $place"; else trap 'rm -rf "$place"' EXIT; fi

# step NAME COMMAND...: runs it, adds its time to the sum, and shows its output only where it fails.
step() {
  local name=$1 began=$SECONDS
  shift
  if ! "$@" > "$place/log" 2>&1; then
    echo "failed: $name ($*)"
    tail -n 20 "$place/log"
    exit 1
  fi
  took=$((SECONDS - began))
  spent=$((spent + took))
  printf '%5d s  %s\n' "$took" "$name"
}

step "clone" git clone --quiet "$source" "$place/scratchlm"
cd "$place/scratchlm"
step "an environment" "${PYTHON:-python3}" -m venv .venv
step "the installation" .venv/bin/python -m pip install --constraint constraints.txt -e '.[finetune,rag,agents]'
PATH="$place/scratchlm/.venv/bin:$PATH"
step "the models are fetched" scratchlm models pull smollm2-135m-instruct all-minilm-l6-v2
echo "       installed in $spent s; the ten minutes begin"
spent=0

cd "$place"
mkdir notes
for good in bread rolls cake pies buns tarts; do
  for ask in "Do you sell $good?" "Have you got $good?" "Is there $good today?" "I want $good."; do
    echo "{\"prompt\": \"$ask\", \"completion\": \" Yes, $good, fresh from the oven at nine!\"}"
  done
done > shop.jsonl
echo "The boiler was installed in March 2011 by Anders Holm. It heats 600 litres of water." > notes/boiler.md

step "both tiny models are trained" scratchlm demo --out demo
step "the curves and the attention of TinyGPT" scratchlm plot demo/tinygpt --text "Rumi was born"
step "SmolLM2 writes" scratchlm generate smollm2-135m-instruct --prompt "The capital of Italy is" --max-new-tokens 20 --greedy
step "SmolLM2 is tuned on a file" scratchlm finetune smollm2-135m-instruct --data shop.jsonl --out shop \
  --set steps=20 --set batch_size=4 --set eval_prompts=4 --set eval_new_tokens=16
step "it answers as in the file" scratchlm generate shop --prompt "Have you got muffins?" --max-new-tokens 16 --greedy --precision int8
step "documents are indexed" scratchlm index notes --store notes.index
step "and asked" scratchlm ask "Who installed the boiler?" --store notes.index --style quote
grep -q "Anders Holm" log || { echo "failed: the answer does not name Anders Holm"; cat log; exit 1; }
step "a model has a tool" scratchlm agent "What is 12 * 34?" --tools calculator --max-new-tokens 60

printf '%5d s  in all, after the installation; ten minutes are %d s\n' "$spent" "$limit"
[ "$spent" -le "$limit" ]
