#!/bin/bash
# Two network namespaces as two machines, as root: four processes train, one is killed, and the resumed run is the same.
#
#     benchmarks/nodes.sh [DIR]
#
# Trains the demo faces once without interruption and once with a kill -9 of one process of the second machine, which
# must end all the others with a line each; then resumes, and compares the models.
set -eu
cd "$(dirname "$0")/.."
dir=$(realpath -m "${1:-$(mktemp -d)}"); mkdir -p "$dir"
torchrun=(.venv/bin/python -m torch.distributed.run --nnodes 2 --nproc-per-node 2 --max-restarts 0)
settings=(--label-dir "$dir/demo" --image-dir "$dir/demo/aligned" --recipe modern --image-size 48 --epochs 6
    --batch-size 32 --lr 0.05 --folds 0 --width 0.5 --threads 1 --precision fp32 --no-plots --cache-dir "$dir/cache")

.venv/bin/python -c "import sys; from data.load import make_demo_faces; make_demo_faces(sys.argv[1])" "$dir/demo"
trap 'ip netns del first 2>/dev/null; ip netns del second 2>/dev/null' EXIT
ip netns add first; ip netns add second
ip link add veth1 netns first type veth peer name veth2 netns second
for node in "first 10.77.0.1 veth1" "second 10.77.0.2 veth2"; do
    read -r name address link <<<"$node"
    ip -n "$name" link set lo up
    ip -n "$name" address add "$address/24" dev "$link"
    ip -n "$name" link set "$link" up
done

train() { # NAME OPTIONS...: on both machines; the exit statuses of the two torchrun
    local name=$1 port=$((29500 + RANDOM % 1000)) pids=() statuses=(); shift
    for node in "first veth1 1" "second veth2 0"; do  # both have one host name, so torchrun is told which one is the host
        read -r machine link host <<<"$node"
        GLOO_SOCKET_IFNAME=$link OMP_NUM_THREADS=1 ip netns exec "$machine" "${torchrun[@]}" \
            --rdzv-id "$name" --rdzv-backend c10d --rdzv-endpoint "10.77.0.1:$port" --rdzv-conf "is_host=$host" \
            --local-addr "$(ip -n "$machine" -4 -o address show dev "$link" | awk '{print $4}' | cut -d/ -f1)" \
            main.py "$@" >"$dir/$name.$machine.log" 2>&1 &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do
        local status=0
        wait "$pid" || status=$?
        statuses+=("$status")
    done
    echo "$name: exit statuses ${statuses[*]}"
}

rm -rf "$dir/whole" "$dir/killed" "$dir"/*.log
train whole "${settings[@]}" --run-dir "$dir/whole"
train killed "${settings[@]}" --run-dir "$dir/killed" &
for _ in {1..1200}; do grep -qs "epoch   2/6" "$dir/killed.first.log" && break; sleep 0.1; done
victim=$(for pid in $(ip netns pids second); do
    tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q -- " -u main.py" && echo "$pid"
done | tail -1)
kill -9 "$victim"; echo "killed process $victim"; begun=$SECONDS
wait %%
echo "all ended within $((SECONDS - begun)) s of the kill:"
grep -h "error: " "$dir"/killed.*.log || true
train resumed --run-dir "$dir/killed" --resume --cache-dir "$dir/cache"
.venv/bin/python - "$dir/whole/fold_0.pt" "$dir/killed/fold_0.pt" <<'PY'
import sys

import torch

from models.checkpoint import load_model

whole, killed = (load_model(path).state_dict() for path in sys.argv[1:])
assert all(torch.equal(whole[name], killed[name]) for name in whole)
print("the resumed model has the same bits")
PY
