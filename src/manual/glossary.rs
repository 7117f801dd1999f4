//! The words, as this code uses them.
//!
//! - **endpoint**: an address and a port. **five-tuple**: protocol and two endpoints. **flow**: what a five-tuple names.
//! - **inside / outside**: the TUN's side / the uplink's side of the translator.
//! - **mapping**: an inside endpoint and the outside endpoint that stands for it (RFC 4787). **binding**: the socket that
//!   a mapping owns.
//! - **endpoint-independent, address-dependent, address-and-port-dependent**: how mappings are shared and filtered (RFC
//!   4787 sections 4.1 and 5).
//! - **contact**: a remote that a mapping has sent to.
//! - **prefix, longest match**: a set of addresses with common leading bits; the longest prefix that holds an address.
//! - **uplink**: a named way out: interface, next hop, mark. **direct**: by the uplink, past the VPN.
//! - **capture**: what is steered into the TUN.
//! - **way**: direct, or tunnel: the one that the system would take without us. **fall**: a mapping's move from direct to
//!   tunnel; **return**: the move back. **check**: a STUN request by which ICE tests a pair or keeps consent. **trial**: a
//!   check of a fallen mapping that is also sent the direct way.
//! - **rule**: predicate and action. **verdict**: the result, with the rule that gave it.
//! - **reject**: refuse with an ICMP error or a RST. **drop**: refuse silently, with a reason that is counted.
//! - **treatment**: DSCP and queueing priority. **EF**: expedited forwarding, DSCP 46, TOS octet 0xb8.
//! - **fwmark, table, rule priority, protocol number**: as in ip-rule(8) and ip-route(8).
//! - **client**: a machine behind a gateway, whose media is forwarded into the TUN.
//! - **alias**: an address that stands for a local one on the short way from the TUN to the firewall's prerouting hook.
//! - **transmit, command, event, timeout**: what passes between engine and shell.
//! - **revert**: undo what was acquired, in reverse order. **cleanup**: the same for a process that cannot do it itself.
//! - **SSRC, extended sequence number, interarrival jitter, cumulative lost**: as in RFC 3550.
