#!/bin/bash
# What an operator does with the package, on a machine of its own under systemd: run there by landbridge-check.service,
# which tests/tests/package.rs adds. Writes what it does to /opt/result/log, and last "all good".
set -euo pipefail
exec > /opt/result/log 2>&1
trap 'systemctl status --no-pager --lines=40 landbridge.service landbridge.socket || true; systemctl poweroff --no-block' EXIT

step() { echo "--- $1"; }
fail() { echo "FAILED: $1"; exit 1; }
# Waits up to 20 s for a command to succeed.
eventually() {
    for _ in $(seq 200); do
        if "$@" > /dev/null 2>&1; then return; fi
        sleep 0.1
    done
    fail "not within 20 s: $*"
}
show() { systemctl show --property="$1" --value landbridge.service; }
# Says a word through the proxy and hears it again.
echoed() {
    exec 3<> /dev/tcp/127.0.0.1/8000
    echo "$1" >&3
    read -r -t 10 heard <&3
    exec 3>&-
    [[ $heard == "$1" ]]
}

step "install: a user, a configuration, and nothing that runs"
dpkg --install /opt/landbridge.deb
getent passwd landbridge
[[ $(systemctl is-enabled landbridge.service) == disabled ]] || fail "enabled"
! systemctl is-active landbridge.service || fail "active"
landbridge check /etc/landbridge/landbridge.toml
[[ -s /usr/share/man/man1/landbridge.1.gz ]] || fail "no manual page"
bash -n /usr/share/bash-completion/completions/landbridge

step "start: ready, as a user with four capabilities"
cat > /etc/landbridge/landbridge.toml <<'TOML'
[[listener]]
name = "inference"
bind = ["0.0.0.0:8000"]
groups = ["onprem"]

[[group]]
name = "onprem"

[group.health]
kind = "tcp"

[[group.target]]
address = "127.0.0.1:9000"

[admin]
socket = "/run/landbridge/other.sock"

[session_log]
path = "/var/log/landbridge/sessions.jsonl"
TOML
export LANDBRIDGE_SOCKET=/run/landbridge/other.sock
systemctl enable --now landbridge.service
show StatusText | grep --fixed-strings "serving: 1 of 1 groups, 1 of 1 targets"
pid=$(show MainPID)
grep --extended-regexp "^(Uid|CapEff|NoNewPrivs|Seccomp):" "/proc/$pid/status"
grep --quiet "^Uid:.$(id --user landbridge)\b" "/proc/$pid/status" || fail "another user"
grep --quiet "^CapEff:.000000c000001400$" "/proc/$pid/status" || fail "other capabilities"
journalctl --unit=landbridge.service --no-pager | grep "kernel fast path: loaded and tested"
mountpoint /run/landbridge/bpf
journalctl --unit=landbridge.service --no-pager | grep "privileges given up"
! journalctl --unit=landbridge.service --no-pager | grep "cannot be pinned" || fail "joined sessions would end with the daemon"
landbridge doctor --config /etc/landbridge/landbridge.toml || true
echoed "through the package"
landbridge status
eventually grep '"end":"client_closed"' /var/log/landbridge/sessions.jsonl
[[ $(stat --format="%U %a" /var/log/landbridge) == "landbridge 750" ]] || fail "the folder of the session log"

step "reload: a mistake changes nothing"
systemctl reload landbridge.service
cp /etc/landbridge/landbridge.toml /opt/good.toml
echo "[[listener" >> /etc/landbridge/landbridge.toml
! systemctl reload landbridge.service || fail "a broken file was taken"
cp /opt/good.toml /etc/landbridge/landbridge.toml
systemctl is-active landbridge.service
echoed "after the reload"

step "restart: a joined session goes on"
# A client and a target behind a device.
ip netns add peer
ip link add lan type veth peer name eth0 netns peer
ip address add 10.9.0.1/24 dev lan
ip link set lan up
ip -n peer address add 10.9.0.2/24 dev eth0
ip -n peer link set eth0 up
systemctl start far-echo.socket
sed --in-place 's/127.0.0.1:9000/10.9.0.2:9000/' /etc/landbridge/landbridge.toml
systemctl reload landbridge.service
# Says each line through the proxy and writes what it hears.
coproc far { ip netns exec peer bash -c '
    exec 3<> /dev/tcp/10.9.0.1/8000
    while read -r line; do
        echo "$line" >&3
        read -r -t 10 heard <&3
        echo "$heard"
    done'; }
far_echoed() {
    echo "$1" >&"${far[1]}"
    read -r -t 10 heard <&"${far[0]}"
    [[ $heard == "$1" ]]
}
counted() {
    exec 5<> /dev/tcp/127.0.0.1/9900
    printf 'GET /metrics HTTP/1.0\r\n\r\n' >&5
    grep --quiet "^landbridge_datapath_$1_total{.*} 1$" <&5
    exec 5>&-
}
far_echoed "before the restart"
eventually counted joins
systemctl restart landbridge.service
[[ $(show MainPID) != "$pid" ]] || fail "not restarted"
pid=$(show MainPID)
eventually counted adoptions
far_echoed "after the restart"
exec {far[1]}>&-
sed --in-place 's/10.9.0.2:9000/127.0.0.1:9000/' /etc/landbridge/landbridge.toml
systemctl reload landbridge.service
echoed "after the restart, to the near target"

step "the package again, as an upgrade: a new process, the same service"
dpkg --install /opt/landbridge.deb
other() { [[ $(show MainPID) != "$pid" ]] && echoed "after the upgrade"; }
eventually other
systemctl is-active landbridge.service
[[ $(show NRestarts) == 0 ]] || fail "it was restarted"

step "stop after the upgrade: the sessions that are there may finish; and start by a connection"
exec 4<> /dev/tcp/127.0.0.1/8000
echo "before the stop" >&4
read -r -t 10 heard <&4
systemctl stop --no-block landbridge.service
draining() { [[ $(show StatusText) == draining* ]]; }
eventually draining
echo "during the drain" >&4
read -r -t 10 heard <&4
[[ $heard == "during the drain" ]] || fail "the session was cut"
exec 4>&-
stopped() { [[ $(show ActiveState) == inactive || $(show ActiveState) == failed ]]; }
eventually stopped
[[ $(show Result) == success ]] || fail "the stop: $(show Result)"
systemctl start landbridge.socket
echoed "to the socket of systemd"
systemctl is-active landbridge.service

step "remove: nothing runs, the configuration stays"
dpkg --remove landbridge
! systemctl is-active landbridge.service landbridge.socket || fail "something runs"
! mountpoint /run/landbridge/bpf || fail "still mounted"
[[ ! -e /usr/bin/landbridge && -e /etc/landbridge/landbridge.toml ]] || fail "what is left is wrong"

step "purge: the configuration goes too"
dpkg --purge landbridge
[[ ! -e /etc/landbridge/landbridge.toml ]] || fail "the configuration is left"
[[ ! -e /var/log/landbridge ]] || fail "the session log is left"
echo "all good"
