#!/bin/bash
# Removes the pairs of the lowest scores, in place of the script of the same name in Mozilla's
# translation pipeline: the same arguments and environment.
#
#   SRC=en TRG=de ce-filter.sh CORPUS_PREFIX OUTPUT_PREFIX SCORES
#
# Reads CORPUS_PREFIX.$SRC.zst and .$TRG.zst with a score a line in SCORES, as score.sh writes them,
# and writes OUTPUT_PREFIX.$SRC.zst and .$TRG.zst, both or none. Lines without a score (nan) go
# first. Of equal scores the first lines go.
#
# REMOVE is the part to remove (0.05, rounded down to lines). KEEP_ORDER=1 keeps the order of the
# lines; otherwise they are sorted by score, the lowest first. Memory is SORT_MEMORY (256M), whatever
# the size of the corpus; the rest is sorted on the disk, beside the output.

set -euo pipefail

usage="usage: SRC=en TRG=de $0 CORPUS_PREFIX OUTPUT_PREFIX SCORES"
: "${SRC:?${usage}}" "${TRG:?${usage}}"
if [ $# -ne 3 ]; then
  echo "${usage}" >&2
  exit 2
fi
corpus_prefix=$1
output_prefix=$2
scores=$3
remove=${REMOVE:-0.05}
export LC_ALL=C

mkdir -p "$(dirname "${output_prefix}")"
tmp=$(mktemp -d "$(dirname "${output_prefix}")/ce-filter.XXXXXX")
trap 'rm -rf "${tmp}"' EXIT

by_score() {
  sort --stable --field-separator=$'\t' --key=1,1g --buffer-size="${SORT_MEMORY:-256M}" \
    --temporary-directory="${tmp}"
}

num_scores=$(wc -l <"${scores}")
for side in "${SRC}" "${TRG}"; do
  num_lines=$(zstd -dc "${corpus_prefix}.${side}.zst" | wc -l)
  if [ "${num_lines}" -ne "${num_scores}" ]; then
    echo "${corpus_prefix}.${side}.zst has ${num_lines} lines, but ${scores} has ${num_scores};" \
      "expected a score a line: score this text again" >&2
    exit 1
  fi
done
num_removed=$(awk -v lines="${num_scores}" -v part="${remove}" \
  'BEGIN { if (part < 0 || part >= 1) exit 1; printf "%d", lines * part + 1e-9 }') || {
  echo "REMOVE is ${remove}; expected a part of at least 0 and below 1" >&2
  exit 1
}

if [ "${KEEP_ORDER:-0}" = 1 ]; then
  # Numbers of the lines to remove, ascending, which awk reads along with the text.
  awk '{ print $1 "\t" NR }' "${scores}" | by_score |
    awk -F '\t' -v most="${num_removed}" 'NR <= most { print $2 }' |
    sort --numeric-sort --buffer-size="${SORT_MEMORY:-256M}" --temporary-directory="${tmp}" \
      >"${tmp}/removed"
fi
for side in "${SRC}" "${TRG}"; do
  if [ "${KEEP_ORDER:-0}" = 1 ]; then
    zstd -dc "${corpus_prefix}.${side}.zst" |
      awk -v removed="${tmp}/removed" '
        BEGIN { if ((getline next_removed < removed) <= 0) next_removed = 0 }
        NR == next_removed { if ((getline next_removed < removed) <= 0) next_removed = 0; next }
        { print }'
  else
    # Sorted by the same scores and stable, both sides come in the same order.
    paste "${scores}" <(zstd -dc "${corpus_prefix}.${side}.zst") | by_score |
      awk -v most="${num_removed}" 'NR > most' | cut -f 2-
  fi | zstd -q -T0 >"${tmp}/${side}.zst"
done
for side in "${SRC}" "${TRG}"; do
  mv "${tmp}/${side}.zst" "${output_prefix}.${side}.zst"
done
echo "${output_prefix}: $((num_scores - num_removed)) of ${num_scores} pairs kept"
