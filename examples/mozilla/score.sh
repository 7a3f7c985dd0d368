#!/bin/bash
# Scores a corpus with a model from target to source, in place of the script of the same name in
# Mozilla's translation pipeline: the same arguments and environment, and scores of the same form.
#
#   SRC=en TRG=de score.sh MODEL VOCAB CORPUS_PREFIX OUTPUT
#
# MODEL is Marian's .npz, VOCAB its SentencePiece model, and CORPUS_PREFIX.$SRC.zst and .$TRG.zst
# (or the same without .zst) are the text, which stays as it is. OUTPUT gets one number a line: the
# log-probability of the source given the target, divided by its tokens.
#
# PYCAT names the program (pycat), DTYPE the type of its matrix products (float32). MARIAN, GPUS and
# WORKSPACE are not needed: pycat finds its device and bounds its memory itself.

set -euo pipefail

usage="usage: SRC=en TRG=de $0 MODEL VOCAB CORPUS_PREFIX OUTPUT"
: "${SRC:?${usage}}" "${TRG:?${usage}}"
if [ $# -ne 4 ]; then
  echo "${usage}" >&2
  exit 2
fi
model=$1
vocab=$2
corpus_prefix=$3
output=$4

text() {
  if [ -e "${corpus_prefix}.$1.zst" ]; then
    echo "${corpus_prefix}.$1.zst"
  else
    echo "${corpus_prefix}.$1"
  fi
}

mkdir -p "$(dirname "${output}")"
"${PYCAT:-pycat}" score --format marian \
  --checkpoints "${model}" \
  --vocabs "${vocab}" "${vocab}" \
  --train-sets "$(text "${TRG}")" "$(text "${SRC}")" \
  --max-length 250 \
  --max-length-crop \
  --keep-empty \
  --normalize \
  --dtype "${DTYPE:-float32}" \
  --overwrite \
  --out "${output}"
