//! Terms that this project defines, or uses in a narrower sense than networking texts do.
//!
//! | term | meaning |
//! |---|---|
//! | inside, outside | the TUN's side, the uplink's side of the translator |
//! | mapping | an inside endpoint and the outside endpoint that represents it (RFC 4787 section 2) |
//! | binding | the socket of a mapping |
//! | permitted remote | a remote that a mapping has sent to; filtering and ICMP validation use the list (like a permission of RFC 8656) |
//! | uplink | the physical interface, next hop and mark by which media of one family leaves |
//! | direct path, tunnel path | by the uplink, past the VPN; by the routes that would apply without voicelane |
//! | capture | the protocols, ports and prefixes whose packets are routed into the TUN |
//! | failover, failback | a mapping moves from the direct path to the tunnel path, or back |
//! | STUN check | a STUN request by which ICE tests a pair or renews consent (RFC 8445, RFC 7675) |
//! | probe (of a path) | a STUN check of a failed-over mapping, also sent on the direct path |
//! | probe (of the firewall) | a packet that tests nftables and never leaves the machine |
//! | verdict | the decision about a packet, with the rule that gave it |
//! | treatment | DSCP and queueing priority of a relayed packet |
//! | reject, drop | refuse with an ICMP error or RST; refuse silently, with a counted reason |
//! | client | a machine behind a gateway whose media is captured |
//! | reply source | an unrouted address that replaces a VPN address as the destination of a reply, until nftables restores the VPN address |
//! | IPsec bypass | a socket option or allow policy that exempts media from foreign IPsec policies |
//! | blocked path | a path that this machine's firewall forbids; the family then stays in the VPN |
//! | hairpin | a packet from one inside endpoint to the outside endpoint of another (RFC 4787 section 6) |
//! | uplink generation | a number that grows when the uplink of a family changes; a mapping with an older one is stale |
//! | resync | stale mappings get sockets of the current uplink, active calls first, the others in batches |
//! | finding | what one check of the doctor found: its verdict, the facts, the remedy |
//! | reconciler | the loop that compares desired and observed routing state and applies the difference |
//! | correction | a reconciliation that changed something although the desired state was the same |
//! | driver | the thread that carries packets |
//! | transmit, command, event | what the engine puts into its outbox: a datagram, a socket operation, a notification |
//! | saved sysctls | former values of foreign settings, kept in `state.json` to be restored |
