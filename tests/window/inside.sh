#!/bin/bash
# Called by run.sh inside the chroot, with the name of the script that Blender runs: starts a virtual screen and Blender, and takes screenshots on request.
# The probe requests NAME.png by writing out/NAME.shot. Screenshots are taken from outside of Blender,
# because its own screenshot operator gives black images with a software renderer.
set -euo pipefail
cd /opt/recdreamer
export HOME=/root LC_ALL=C.UTF-8 DISPLAY=:79 LIBGL_ALWAYS_SOFTWARE=1 OMP_NUM_THREADS=1
scratch=$(mktemp -d)
export XDG_RUNTIME_DIR=$scratch BLENDER_USER_RESOURCES=$scratch/blender XDG_DATA_HOME=$scratch/data

size=${SIZE:-1600x1000}
Xvfb $DISPLAY -screen 0 ${size}x24 +extension GLX -noreset > out/xvfb.log 2>&1 &
screen=$!
trap 'kill $screen; rm -rf "$scratch"' EXIT
for _ in $(seq 100); do [ -S /tmp/.X11-unix/X79 ] && break; sleep 0.1; done

options=--offline-mode
if [ "$1" = install.py ]; then
    options=
    # As on a computer that has a Python that fits; the one of this system may be too new.
    [ "${FROM:-}" != python ] || export PATH=$PATH:$(dirname "$(realpath "$BACKEND_PYTHON")")
fi
[ ! -s certificates.pem ] || export SSL_CERT_FILE=/opt/recdreamer/certificates.pem
# Nothing is fetched; but a button that fetches is gray offline.
[ "$1" != guide.py ] || options=
if [ "$1" = clicks.py ]; then
    # There is no other computer in this network; the hub is on 127.0.0.1, which is yet to be switched on.
    options=
    "$BACKEND_PYTHON" -c 'import fcntl, socket, struct
s = socket.socket(); fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 1 | 64))'
    PYTHONPATH=/opt/recdreamer/backend "$BACKEND_PYTHON" hub.py /opt/recdreamer > out/hub.log 2>&1 &
    hub=$!
    trap 'kill $screen $hub; rm -rf "$scratch"' EXIT
    for _ in $(seq 1200); do [ -s endpoint ] && break; sleep 0.1; done
    export HF_ENDPOINT=$(cat endpoint)
fi
window=${WINDOW:-$size}  # Smaller where there is another Blender beside it.
timeout 3600 blender --factory-startup $options --no-window-focus -p 0 0 ${window/x/ } \
    --python "$1" > out/blender.log 2>&1 &
blender=$!
while kill -0 $blender 2>/dev/null; do
    for request in out/*.shot; do
        [ -f "$request" ] || continue
        import -window root "${request%.shot}.png"
        rm "$request"
    done
    sleep 0.1
done
status=0
wait $blender || status=$?
[ $status = 0 ] || tail -n 40 out/blender.log >&2
exit $status
