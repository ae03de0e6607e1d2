#!/usr/bin/env bash
# Installs what the tests need beside Python, by apt-get and where it is missing:
#
#   tools/packages.sh browser slurm
#
# SLURM's services are not set up: the tests start a cluster of their own (tests/slurm/cluster.py).
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"

any() { for program in "$@"; do ! command -v "$program" >/dev/null || return 0; done; return 1; }

wanted=()
for what in "$@"; do
  case "$what" in
    browser) any chromium chromium-browser google-chrome || wanted+=(chromium) ;;
    slurm)
      any slurmctld || wanted+=(slurm-wlm)
      any munged || wanted+=(munge) ;;
    *) echo "$0: got $what; expected browser or slurm" >&2; exit 2 ;;
  esac
done
[ "${#wanted[@]}" -gt 0 ] || exit 0

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}"
