#!/bin/sh
# Makes this machine one of three nodes: client – gateway – server. The gateway masquerades the client, and translates
# port 80 of a virtual address to port 8080 of the server.
#
# The QEMU nodes of `cargo xtask vm nodes` and the VirtualBox nodes of Vagrantfile run this same script: they give their
# network cards the same addresses, by which it knows them.
set -eu

# VirtualBox lets host-only networks be in 192.168.56.0/21 without further ado, and takes the first address of each.
client=192.168.57.2 inside=192.168.57.10 virtual=192.168.57.100
server=192.168.58.2 outside=192.168.58.10

# Prints the interface with a hardware address.
interface() {
    for folder in /sys/class/net/*; do
        if [ "$(cat "$folder/address")" = "$1" ]; then
            echo "${folder##*/}"
            return
        fi
    done
    echo "provision.sh: no network card has the address $1" >&2
    return 1
}

# up MAC ADDRESS: gives a card its address.
up() {
    card=$(interface "$1")
    ip link set "$card" up
    ip address replace "$2/24" dev "$card"
}

case ${1-} in
client)
    up 08:00:27:77:00:01 $client
    ip route replace 192.168.58.0/24 via $inside
    # Nobody has it: the gateway translates it.
    ip route replace $virtual/32 via $inside
    ;;
gateway)
    up 08:00:27:77:00:02 $inside
    up 08:00:27:77:00:03 $outside
    command -v nft >/dev/null || apt-get install -y nftables
    nft -f - <<RULES
table ip netprobe
delete table ip netprobe
table ip netprobe {
  chain pre {
    type nat hook prerouting priority dstnat;
    ip daddr $virtual tcp dport 80 dnat to $server:8080
  }
  chain post {
    type nat hook postrouting priority srcnat;
    oifname $(interface 08:00:27:77:00:03) masquerade
  }
}
RULES
    sysctl -q -w net.netfilter.nf_conntrack_acct=1
    sysctl -q -w net.ipv4.ip_forward=1
    ;;
server)
    up 08:00:27:77:00:04 $server
    ;;
*)
    echo "usage: provision.sh client|gateway|server" >&2
    exit 2
    ;;
esac
