#!/usr/bin/env bash
# Hand a study to a running Ray cluster and follow it; safe to repeat, since launch runs only what is missing.
#
#   ray dashboard cluster.yaml &                       # forwards the job server to 127.0.0.1:8265
#   jobs/ray/submit.sh /srv/mtlfleet/study.yaml        # a path the cluster's nodes see; results go beside it
#
# Needs `pip install 'ray[default]'` here and the cluster's token in ~/.ray/auth_token.
set -euo pipefail

study=${1:?usage: jobs/ray/submit.sh STUDY [launch options]; STUDY is an absolute path on the disk that the nodes share}
shift
[[ $study == /* ]] || { echo "submit.sh: $study is not absolute: the job starts in a folder of its own on the head node" >&2; exit 2; }

export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
exec ray job submit --address "${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}" \
  --submission-id "mtlfleet-$(basename "${study%.*}")-$(date -u +%Y%m%dT%H%M%SZ)" \
  -- mtlfleet launch "$study" --address auto --progress plain "$@"
