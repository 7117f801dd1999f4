#!/bin/bash
# Runs in a booted container (tests/packages): creates an uplink and tests the unit under systemd. Writes the result to
# /root/result and powers off.
set -euo pipefail
exec >/root/result 2>&1
trap 'status=$?; ((status == 0)) || journalctl --unit voicelane --no-pager; echo "ended with $status"; systemctl poweroff 2>&1 | true' EXIT

fail() {
    echo "FAILED: $*"
    exit 1
}
property() {
    systemctl show --property "$1" --value voicelane
}
rp_filter() {
    cat /proc/sys/net/ipv4/conf/wlan0/rp_filter
}
# Waits until the service has restarted $1 times and media leaves.
media_leaves_after() {
    for _ in $(seq 300); do
        [[ $(property NRestarts) == "$1" && $(property StatusText) == "media leaves through wlan0" ]] && return
        sleep 0.1
    done
    fail "no media leaves after $1 restarts: $(property StatusText)"
}

ip netns add router
ip link add wlan0 type veth peer name lan0 netns router
ip addr add 192.168.7.10/24 dev wlan0
ip link set wlan0 up
ip -n router addr add 192.168.7.1/24 dev lan0
ip -n router link set lan0 up
echo 1 >/proc/sys/net/ipv4/conf/wlan0/rp_filter
ip route add default via 192.168.7.1

echo "--- ready, as the user voicelane, with one capability"
media_leaves_after 0
[[ $(rp_filter) == 2 ]] || fail "rp_filter of the uplink is still strict"
pid=$(property MainPID)
[[ $(stat --format %U "/proc/$pid") == voicelane ]] || fail "the service runs as another user"
grep -q '^CapEff:.0*1000$' "/proc/$pid/status" || fail "the service has other capabilities"
voicelane status

echo "--- reload: complete or not at all, with exit code"
systemctl reload voicelane
echo 'nonsense = 1' >>/etc/voicelane/voicelane.toml
if systemctl reload voicelane; then
    fail "a faulty file was accepted"
fi
systemctl is-active voicelane
sed -i '/^nonsense/d' /etc/voicelane/voicelane.toml
systemctl reload voicelane

echo "--- the journal has fields"
[[ -n $(journalctl --unit voicelane --no-pager --quiet VOICELANE_EVENT=reloaded) ]] || fail "the journal has no fields"

echo "--- a credential is a configuration layer"
mkdir -p -m 700 /etc/credstore
printf 'version = 1\nnat.mapping_lifetime_seconds = 299\n' >/etc/credstore/voicelane.toml
systemctl restart voicelane
media_leaves_after 0
voicelane config show --effective | grep '^mapping_lifetime_seconds = 299.*credential' >/dev/null || fail "the credential has no effect"
rm /etc/credstore/voicelane.toml
systemctl restart voicelane
media_leaves_after 0
pid=$(property MainPID)

echo "--- after a kill: cleaned up and restarted"
kill -9 "$pid"
media_leaves_after 1

echo "--- hanging: the watchdog restarts the service"
kill -STOP "$(property MainPID)"
media_leaves_after 2

echo "--- stopped: nothing is left"
systemctl stop voicelane
[[ -z $(ip rule show | grep 'proto 118') ]] || fail "a rule is left"
[[ $(rp_filter) == 1 ]] || fail "rp_filter of the uplink is not restored"
echo "the unit passed"
