#!/usr/bin/env bash
# One machine, all its GPUs; a process that dies costs a restart from the last checkpoint.
#
#   launch/one-node.sh --data photos --preset biggan-128 --out runs/photos
#
# Every argument goes to `gansmith train`. Environment: PROCESSES (GPUs of the machine, else 1),
# RESTARTS (3), PYTHON (python).
set -euo pipefail

PYTHON=${PYTHON:-python}
accelerators='import torch; print(max(1, torch.accelerator.device_count()))'
PROCESSES=${PROCESSES:-$("$PYTHON" -c "$accelerators")}

# --standalone: a free port, so that several runs fit on one machine.
exec "$PYTHON" -m torch.distributed.run --standalone \
  --nproc-per-node "$PROCESSES" --max-restarts "${RESTARTS:-3}" \
  -m gansmith train "$@"
