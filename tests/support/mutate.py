"""Sends malformed packets into a TUN, as a broken or hostile program on the laptop could: scapy makes and mutates them,
a packet socket puts them into the device. Usage: mutate.py TUN COUNT SEED SOURCE DESTINATION PORT, addresses of one
family; prints how many the kernel took."""

import random
import socket
import sys
import time

from scapy.all import (
    ICMP, IP, TCP, UDP, ICMPv6EchoRequest, ICMPv6PacketTooBig, IPOption, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, Raw, corrupt_bits, corrupt_bytes, fragment, fragment6, fuzz, raw,
)

tun, count, seed, source, destination, port = sys.argv[1:]
count, port = int(count), int(port)
random.seed(int(seed))
is_v6 = ":" in source

# A few source ports, so that it is packets that are tried and not how many mappings there may be.
ports = [50000 + number for number in range(8)]
payload = Raw(bytes(range(160)))


def udp():
    return UDP(sport=random.choice(ports), dport=port)


def tcp():
    return TCP(sport=random.choice(ports), dport=port, flags=random.randrange(256), seq=random.getrandbits(32))


def network(**fields):
    return (IPv6 if is_v6 else IP)(src=source, dst=destination, **fields)


def well_formed():
    """One packet of each form that the parser knows."""
    bodies = [udp() / payload, udp(), tcp() / payload, udp() / Raw(bytes(1400))]
    if is_v6:
        bodies += [header / udp() / payload for header in (
            IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(), IPv6ExtHdrFragment(id=7, m=0),
        )]
        bodies += [ICMPv6EchoRequest(data=b"x" * 32), ICMPv6PacketTooBig() / network() / udp()]
        large = network() / IPv6ExtHdrFragment(id=random.getrandbits(32)) / udp() / Raw(bytes(3000))
        packets = [network() / body for body in bodies] + fragment6(large, 1280)
    else:
        bodies += [ICMP() / payload, ICMP(type=3, code=4) / network() / udp()]
        packets = [network() / body for body in bodies]
        packets += [network(options=[IPOption(b"\x07\x07\x04\0\0\0\0\0")]) / udp() / payload]
        packets += fragment(network(id=random.getrandbits(16)) / udp() / Raw(bytes(3000)), 1200)
    return [raw(packet) for packet in packets]


def with_fuzzed_fields():
    """Fields that say anything, under checksums that are right."""
    layers = [fuzz(network()) / udp() / payload, network() / fuzz(UDP(sport=random.choice(ports))) / payload,
              network() / fuzz(TCP(sport=random.choice(ports), dport=port))]
    return raw(random.choice(layers))


def truncated(packet):
    return packet[:random.randrange(1, len(packet) + 1)]


def extended(packet):
    return packet + random.randbytes(random.randrange(1, 200))


def headers_broken(packet):
    """A byte of the first 64 is another one."""
    at = random.randrange(min(64, len(packet)))
    return packet[:at] + random.randbytes(1) + packet[at + 1:]


device = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
device.bind((tun, 0x86DD if is_v6 else 0x0800))
base = [packet for _ in range(8) for packet in well_formed()]
mutations = [truncated, extended, headers_broken, headers_broken, corrupt_bytes, corrupt_bits]
sent = 0
for number in range(count):
    packet = with_fuzzed_fields() if number % 16 == 0 else random.choice(mutations)(random.choice(base))
    try:
        device.send(packet[:1500])
        sent += 1
    except OSError:
        # The kernel itself finds some too short.
        pass
    if number % 64 == 0:
        # The device's queue holds 500.
        time.sleep(0.002)
print(sent)
