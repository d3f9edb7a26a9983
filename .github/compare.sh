#!/usr/bin/env bash
# What .github/workflows/compare.yml runs, a step a word: pull, run, report, gate. Works at home too. It needs dvc and
# vitlora on the PATH, and takes of the environment:
#   BASE   the commit to compare with; HEAD^1 if not set, which in a pull request's merge is the target branch
#   GATE   options of `vitlora gate`, such as "--tolerance 0.3 --class-floor 0.8"
set -euo pipefail
base=${BASE:-HEAD^1}
report=.work/compare.md
summary=${GITHUB_STEP_SUMMARY:-/dev/null}

case ${1:-} in
pull) # what was made elsewhere, and the logits of the base
    if [ -z "$(dvc remote list)" ]; then
        echo 'no DVC remote: every stage runs here'
        exit 0
    fi
    dvc pull --run-cache --allow-missing
    git branch --force vitlora-base "$base" # dvc fetches for branches, not for a commit
    dvc fetch --all-branches data/evaluated || echo 'the remote has no logits of the base; compare goes on without'
    ;;
run)
    vitlora run
    ;;
report)
    mkdir -p .work
    vitlora compare "$base" --md | tee "$report" >>"$summary"
    mark=report_$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n') # no name of a picture can end the output
    { echo "report<<$mark" && cat "$report" && echo "$mark"; } >>"${GITHUB_OUTPUT:-/dev/null}"
    ;;
gate)
    # shellcheck disable=SC2086 # several options
    vitlora gate --against "$base" ${GATE:-} | tee -a "$summary"
    ;;
*)
    echo 'usage: compare.sh pull|run|report|gate' >&2
    exit 2
    ;;
esac
