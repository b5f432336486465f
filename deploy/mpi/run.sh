#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A large model over several machines, started by mpirun (Open MPI, MPICH, Intel MPI): one process on each. weir uses no MPI; mpirun
# only starts it and says which is which.
#
#   deploy/mpi/run.sh gpu01,gpu02 --small S.gguf --large L.gguf --large-device cuda --large-tp 16 \
#                     --dist-token-file /shared/token --listen 0.0.0.0:8000 --api-key-file keys
#
# The first host answers requests. What follows the hosts are options of `weir serve`; files lie where all machines see them. mpirun
# ends all processes when one of them dies: for workers that may come and go take Slurm or Kubernetes (RUNBOOK.md). Tried with a
# stand-in for mpirun (tests/e2e/launch_test.py), not yet on a cluster.
set -eu
if [ $# -lt 1 ]; then
  echo "usage: $0 HOST[,HOST...] [options of weir serve]" >&2
  exit 2
fi
hosts=$1
shift
n=$(echo "$hosts" | tr ',' '\n' | grep -c .)
address=${hosts%%,*}:${PORT:-5610} # where the first host's process listens for the others

case $(mpirun --version 2>&1) in
  *'Open MPI'* | *OpenRTE* | *PRRTE*) where="--host $hosts --map-by ppr:1:node --bind-to none" ;;
  *) where="-hosts $hosts -ppn 1 -bind-to none" ;;
esac
# shellcheck disable=SC2086
exec mpirun -np "$n" $where "${WEIR:-weir}" serve --launcher auto --dist-init-addr "$address" "$@"
