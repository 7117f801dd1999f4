"""Sends ICMP errors to a laptop as anybody on its network could. Usage: forge.py LINK OWN_MAC NEXT_MAC LAPTOP PORT HOST
HOST_PORT STRANGER KIND: the outside endpoint that they are about, the host that was sent to, one that was not, and
"forged" for a hundred of each that are wrong or cut short, "true" for a single right one."""

import sys

from scapy.all import (
    ICMP, IP, TCP, UDP, Ether, ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6, Raw, raw, sendp,
)

link, own, next_hop, laptop, port, host, host_port, stranger, kind = sys.argv[1:]
port, host_port = int(port), int(host_port)
is_v6 = ":" in laptop
network = IPv6 if is_v6 else IP


def sent(to=host, source_port=port, transport=UDP):
    """A datagram that the laptop may have sent."""
    return raw(network(src=laptop, dst=to) / transport(sport=source_port, dport=host_port) / Raw(bytes(24)))


def error(quoted, **fields):
    header = ICMPv6DestUnreach(code=4, **fields) if is_v6 else ICMP(type=3, code=3, **fields)
    return network(src=stranger, dst=laptop) / header / Raw(quoted)


def too_big(quoted):
    header = ICMPv6PacketTooBig(mtu=1280) if is_v6 else ICMP(type=3, code=4, nexthopmtu=576)
    return network(src=stranger, dst=laptop) / header / Raw(quoted)


header = 40 if is_v6 else 20
true = sent()
forged = [
    error(sent(to=stranger)),
    too_big(sent(to=stranger)),
    error(sent(source_port=port ^ 1)),
    error(sent(transport=TCP)),
    error(true, **{"cksum" if is_v6 else "chksum": 1}),
    error(true[:6] + b"\xfd" + true[7:] if is_v6 else b"\xff" + true[1:]),
] + [error(true[:length]) for length in (0, 1, header - 1, header, header + 1, header + 3)]
packets = [error(true)] if kind == "true" else forged * 100
sendp([Ether(src=own, dst=next_hop) / packet for packet in packets], iface=link, verbose=False)
print(len(packets))
