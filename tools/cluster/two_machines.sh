#!/bin/sh
# The GPU box under the desk, tried on one machine: two network namespaces, the box with an SSH server and Ray, and the laptop
# with nothing but a tunnel to it. Needs root, iproute2 and OpenSSH; ends without a trace.
#
#     sh tools/cluster/two_machines.sh PYTHON    # an interpreter with recdreamer and ray[client]; SSHD=path of the server
set -eu
python=$1
bin=$(dirname "$python")
sshd=${SSHD:-/usr/sbin/sshd}
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d /tmp/two-XXXX)
box="recdreamer-box-$$"
laptop="recdreamer-laptop-$$"
on_box() { ip netns exec "$box" env HOME="$work/box" PATH="$bin:$PATH" PYTHONPATH="$root/backend" "$@"; }
on_laptop() { ip netns exec "$laptop" env HOME="$work/laptop" PATH="$bin:$PATH" PYTHONPATH="$root/backend" "$@"; }
end() {
    [ -f "$work/tunnel.pid" ] && kill "$(cat "$work/tunnel.pid")" 2>/dev/null || true
    [ -f "$work/sshd.pid" ] && kill "$(cat "$work/sshd.pid")" 2>/dev/null || true
    for pid in $(ip netns pids "$box" 2>/dev/null); do kill -9 "$pid" 2>/dev/null || true; done
    ip netns del "$box" 2>/dev/null || true
    ip netns del "$laptop" 2>/dev/null || true
    rm -rf "$work" "/etc/netns/$box"
}
trap end EXIT

mkdir -p "$work/box/.ssh" "$work/laptop/.ssh" "/etc/netns/$box" /run/sshd
ip netns add "$box"
ip netns add "$laptop"
ip link add v0 netns "$box" type veth peer name v0 netns "$laptop"
ip -n "$box" addr add 10.77.0.1/24 dev v0
ip -n "$laptop" addr add 10.77.0.2/24 dev v0
for name in "$box" "$laptop"; do
    ip -n "$name" link set lo up
    ip -n "$name" link set v0 up
done

# The SSH server of the box. Its own user is known inside of the namespace only.
{ cat /etc/passwd; echo "sshd:x:65533:65533::/run/sshd:/usr/sbin/nologin"; } > "/etc/netns/$box/passwd"
ssh-keygen -q -t ed25519 -N "" -f "$work/host"
ssh-keygen -q -t ed25519 -N "" -f "$work/laptop/.ssh/id"
cp "$work/laptop/.ssh/id.pub" "$work/box/.ssh/authorized_keys"
on_box "$sshd" -f /dev/null -h "$work/host" -o Port=22 -o PidFile="$work/sshd.pid" -o StrictModes=no \
    -o AuthorizedKeysFile="$work/box/.ssh/authorized_keys" -o PermitRootLogin=yes
ssh_options="-i $work/laptop/.ssh/id -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=$work/laptop/.ssh/known"

# As docs/cluster.md says: on the box, then on the laptop. The address has to be named, as there is no route to the world.
on_box ray get-auth-token --generate > "$work/token" 2> /dev/null
on_box chmod 600 "$work/box/.ray/auth_token"
on_box env RAY_AUTH_MODE=token ray start --head --node-ip-address=10.77.0.1 --num-cpus 1 --include-dashboard=false --disable-usage-stats \
    --temp-dir "$work/r" > "$work/ray.log" 2>&1 || { tail "$work/ray.log"; exit 1; }
mkdir -p -m 700 "$work/laptop/.ray"
on_laptop ssh $ssh_options 10.77.0.1 "cat $work/box/.ray/auth_token" > "$work/laptop/.ray/auth_token"

run() { on_laptop "$python" -P -m recdreamer generate --prompt "a red bear" --method sds --quality quick --device cpu \
    --out "$work/bear" --set optimize.num_steps=6 geometry.num_steps=2 texture.num_steps=2 "$@"; }
echo "without a tunnel:"
run --on localhost:10001 || true
echo "the address of the box, not allowed:"
run --on 10.77.0.1:10001 || true
on_laptop ssh $ssh_options -N -L 10001:localhost:10001 10.77.0.1 &
echo $! > "$work/tunnel.pid"
sleep 2
echo "through the tunnel:"
run --on localhost:10001
ls "$work/bear/result"
echo "directly, allowed:"
rm -rf "$work/bear"
run --on 10.77.0.1:10001 --allow-remote
ls "$work/bear/result"
