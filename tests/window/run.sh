#!/bin/bash
# Runs the built extension in a real window with the real backend, and takes screenshots.
#   run.sh CHROOT OUT [BACKEND_PYTHON]                 the main job, by operators
#   WALK=clicks run.sh CHROOT OUT [BACKEND_PYTHON]     from install to Stable Diffusion, by mouse and keys;
#                                                      with FROM=models without the first asset, which takes minutes
#   WALK=install run.sh CHROOT OUT [BACKEND_PYTHON]    Install Backend on the network of this computer, as far as it comes;
#                                                      with FROM=python where there is a Python that fits
#   WALK=undo run.sh CHROOT OUT [BACKEND_PYTHON]       undo and redo of everything that changes a scene, and the coarse mesh;
#                                                      with FROM=job without templates and target box
#   WALK=two run.sh CHROOT OUT [BACKEND_PYTHON]        two Blenders on one data folder; Quit while a job runs;
#                                                      with FROM=quit the last part alone
#   WALK=loop run.sh CHROOT OUT [BACKEND_PYTHON]       Stop and its choices, History, cards, meshes, a render, keys alone;
#                                                      with FROM=PART that part alone (see loop.py)
#   WALK=hostile run.sh CHROOT OUT [BACKEND_PYTHON]    three scenes, a new file, a full disk and one that cannot be written
#                                                      while a job runs; with FROM=PART from that part on
#   WALK=cluster run.sh CHROOT OUT [BACKEND_PYTHON]    a job on a Ray cluster on this computer, by mouse and keys
#   WALK=guide run.sh CHROOT OUT [BACKEND_PYTHON]      every picture of docs/guide.md, into docs/images/guide; takes a
#                                                      quarter of an hour, with FROM=OUT of an earlier run two minutes
# CHROOT comes from setup_chroot.sh, OUT gets empty.png, idle.png, running.png, finished.png and the logs.
# BACKEND_PYTHON is a Python with the backend's dependencies, default .venv/backend/bin/python.
# NUM_STEPS in the environment, default 40; increase it for screenshots of good results.
# Needs root: the backend's Python is mounted into the chroot at its own path, read-only.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,22s/^# //p' "$0"; exit 2; }
here=$(dirname "$(realpath "$0")")
checkout=$(realpath "$here/../..")
root=$(realpath "$1")
# Two runs would conflict over the screen and the mounts.
exec 9< "$root"
flock --nonblock 9 || { echo "A run in $root is under way." >&2; exit 1; }
mkdir -p "$2"
out=$(realpath "$2")
python=$(realpath -s "${3:-$checkout/.venv/backend/bin/python}")

# The virtual environment and its base Python installation.
mapfile -t folders < <("$python" -c 'import sys; print("\n".join(sorted({sys.prefix, sys.base_prefix})))')
archive=$checkout/$(cd "$checkout" && python3 tools/dev.py build | tail -n 1)
[ -f "$archive" ] || { echo "The extension could not be built." >&2; exit 1; }

mounted=() nodes=
clean_up() {
    [ -z "$nodes" ] || end_nodes
    # Lazily, because a process in the chroot may still be exiting.
    for target in "${mounted[@]}"; do umount --lazy "$target"; done
}
trap clean_up EXIT
end_nodes() {
    echo '["end"]' >&"$to_nodes" || true
    for _ in $(seq 100); do kill -0 "$nodes" 2>/dev/null || break; sleep 0.2; done
    kill "$nodes" 2>/dev/null || true
    rm -rf "$cluster" "$root/root/.ray"
}
for folder in "${folders[@]}"; do
    # The libraries of the system Python may differ from those in the chroot.
    case $folder in /usr|/) echo "BACKEND_PYTHON must not be the system's own Python." >&2; exit 1;; esac
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
    mounted=("$root$folder" "${mounted[@]}")
    mount -o remount,bind,ro "$root$folder"
done
# torch reads the number of processors from /proc.
mount -t proc proc "$root/proc"
mounted=("$root/proc" "${mounted[@]}")

rm -rf "$root/opt/recdreamer"
mkdir -p "$root/opt/recdreamer/out"
cp "$here"/*.sh "$here"/*.py "$checkout"/tests/catalog/{local_hub,models_on_disk}.py "$archive" "$root/opt/recdreamer/"
script=probe.py alone=() address=
size= window=
case ${WALK:-} in
    undo) script=undo.py alone=(unshare --net);;
    two) script=two.py size=2200x1000 window=1100x1000;;
    loop) script=loop.py size=1600x1400 alone=(unshare --net);;
    hostile) script=hostile.py size=1600x1400 alone=(unshare --net --mount);;
esac
if [ "${WALK:-}" = guide ]; then
    script=guide.py size=1600x1500
    [ -z "${FROM:-}" ] || cp -r "$FROM/jobs" "$root/opt/recdreamer/jobs"
fi
if [ "${WALK:-}" = install ]; then
    script=install.py
    [ -z "${SSL_CERT_FILE:-}" ] || cp "$SSL_CERT_FILE" "$root/opt/recdreamer/certificates.pem"
fi
if [ "${WALK:-}" = cluster ]; then
    # Outside of the chroot, whose network is that of this computer: head and node, and a token on both sides.
    script=cluster.py cluster=$(mktemp -d)
    mkdir -p -m 700 "$root/root/.ray"
    (umask 077; od -An -N32 -tx1 /dev/urandom | tr -d ' \n' | tee "$cluster/token" > "$root/root/.ray/auth_token")
    port=$("$python" -c 'import sys; sys.path.insert(0, sys.argv[1]); import ray_nodes; print(ray_nodes.free_port())' \
        "$checkout/tools/cluster")
    coproc NODES {
        RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$cluster/token PYTHONPATH=$checkout/backend \
            exec "$python" "$checkout/tools/cluster/ray_nodes.py" "$cluster" "$port" --nodes 1 2> "$out/nodes.log"
    }
    nodes=$NODES_PID to_nodes=${NODES[1]}
    read -r -t 120 -u "${NODES[0]}" ready || { tail "$out/nodes.log" >&2; exit 1; }
    address=localhost:$port
fi
if [ "${WALK:-}" = clicks ]; then
    script=clicks.py alone=(unshare --net)
    # For the hub; the add-on brings its own copy.
    mkdir "$root/opt/recdreamer/backend"
    cp -r "$checkout/backend/recdreamer" "$root/opt/recdreamer/backend/"
fi
status=0
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin BACKEND_PYTHON="$python" NUM_STEPS="${NUM_STEPS:-40}" FROM="${FROM:-}" CLUSTER="$address" SIZE="$size" WINDOW="$window" \
    "${alone[@]}" chroot "$root" bash /opt/recdreamer/inside.sh $script || status=$?
cp -r "$root/opt/recdreamer/out/." "$out/"
if [ "${WALK:-}" = guide ] && [ $status = 0 ]; then
    "$python" "$here/guide_pictures.py" "$out" "$checkout/docs/images/guide"
fi
ls "$out"
exit $status
