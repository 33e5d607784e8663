#!/usr/bin/env bash
# Several machines: type the same line on each, with its own NODE_RANK (0 is the first, and writes the files).
#
#   NODES=2 NODE_RANK=0 FIRST_NODE=10.0.0.1 launch/many-nodes.sh --data /shared/photos --out /shared/runs/photos
#   NODES=2 NODE_RANK=1 FIRST_NODE=10.0.0.1 launch/many-nodes.sh --data /shared/photos --out /shared/runs/photos
#
# --out is a folder that all nodes see. Every argument goes to `gansmith train`. Environment, besides NODES,
# NODE_RANK and FIRST_NODE: PORT (29500), PROCESSES per node (its GPUs, else 1), RESTARTS (3), PYTHON (python);
# where a machine has several networks, NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name the one to use.
set -euo pipefail

for name in NODES NODE_RANK FIRST_NODE; do
  if [[ -z ${!name:-} ]]; then
    echo "many-nodes.sh: $name is not set; e.g. NODES=2 NODE_RANK=0 FIRST_NODE=10.0.0.1 $0 …" >&2
    exit 2
  fi
done
PYTHON=${PYTHON:-python}
accelerators='import torch; print(max(1, torch.accelerator.device_count()))'
PROCESSES=${PROCESSES:-$("$PYTHON" -c "$accelerators")}

exec "$PYTHON" -m torch.distributed.run \
  --nnodes "$NODES" --node-rank "$NODE_RANK" --nproc-per-node "$PROCESSES" \
  --master-addr "$FIRST_NODE" --master-port "${PORT:-29500}" --max-restarts "${RESTARTS:-3}" \
  -m gansmith train "$@"
