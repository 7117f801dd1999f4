//! The desired state of the kernel: routing ids, uplinks, captured destinations, firewall marks and clients.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::net::{
    Capture, Family, Fwmark, IfIndex, PerFamily, RouteProtocol, RouteTable, RulePriority,
};

/// Number of routing tables that belong to voicelane, from the base table upwards.
pub(super) const TABLES: u32 = 1024;

/// Numbers that identify voicelane's routes, rules and marks in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingIds {
    /// Protocol number of each of voicelane's routes and rules.
    pub protocol: RouteProtocol,
    /// Base table: holds the uplink's default route. The tables above it hold the captured prefixes.
    pub table: RouteTable,
    /// Priority of voicelane's rules. Foreign rules ahead of it lower the priority in use.
    pub priority: RulePriority,
    /// Mark of the relay's direct sockets.
    pub mark: Fwmark,
    /// Mask of the mark bits that belong to voicelane.
    pub mask: Fwmark,
}

impl Default for RoutingIds {
    fn default() -> Self {
        Self {
            protocol: RouteProtocol(118),
            table: RouteTable(30316),
            priority: RulePriority(100),
            mark: Fwmark(0x7600_0000),
            mask: Fwmark(0xff00_0000),
        }
    }
}

impl RoutingIds {
    /// Returns the mark of the relay's sockets that send into the VPN.
    ///
    /// No capture rule matches it. It differs from [`RoutingIds::mark`], which a firewall may accept.
    #[must_use]
    pub const fn tunnel_mark(&self) -> Fwmark {
        let [low, high] = [
            self.mask.0 & self.mask.0.wrapping_neg(),
            self.mask.0 ^ self.mark.0,
        ];
        match self.mark.0 ^ low {
            0 => Fwmark(high),
            mark => Fwmark(mark),
        }
    }

    /// Returns the mark of packets to capture: of clients, and of media in lookups without ports. No socket of the relay
    /// has it.
    #[must_use]
    pub const fn client_mark(&self) -> Fwmark {
        let low = self.mask.0 & self.mask.0.wrapping_neg();
        match self.mark.0 ^ (low << 1) {
            0 => Fwmark(low << 2),
            mark => Fwmark(mark),
        }
    }

    pub(super) fn owns_table(&self, table: RouteTable) -> bool {
        (self.table.0..self.table.0.saturating_add(TABLES)).contains(&table.0)
    }
}

/// The physical interface by which direct packets of one family leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Name of the interface.
    pub name: String,
    /// Index of the interface.
    pub index: IfIndex,
    /// Next hop of direct packets.
    pub gateway: UplinkGateway,
    /// Reason for the choice.
    pub why: UplinkEvidence,
}

/// The uplink of each family, if there is one. Both families may use the same interface.
pub type Uplinks = PerFamily<Option<Uplink>>;

/// The next hop of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkGateway {
    /// A router, possibly of the other family (RFC 5549).
    Via(IpAddr),
    /// None: destinations are on the link itself, as on a point-to-point link.
    OnLink,
}

impl fmt::Display for UplinkGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Via(router) => router.fmt(f),
            Self::OnLink => f.pad("on the link"),
        }
    }
}

/// Evidence for an uplink, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UplinkEvidence {
    /// The configuration names the interface.
    Pinned,
    /// The main table has a default route by the interface.
    DefaultRoute,
    /// The main table has a host route through a gateway on the interface. A VPN adds such a route to its server when
    /// it replaces the default route.
    HostRoute,
    /// Another table has a default route by the interface.
    OtherTable(RouteTable),
}

impl fmt::Display for UplinkEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.pad("named in the configuration"),
            Self::DefaultRoute => f.pad("the default route"),
            Self::HostRoute => f.pad("the host route to the VPN server"),
            Self::OtherTable(table) => write!(f, "the default route of table {table}"),
        }
    }
}

/// Marks by which a VPN's firewall recognises the VPN's own packets. Media gets them if so configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirewallMarks {
    /// Packet mark. Replaces voicelane's mark.
    pub mark: Option<Fwmark>,
    /// Connection tracking mark.
    pub conntrack_mark: Option<Fwmark>,
}

/// Route lookups without ports, which other programs cause. Media has a mark for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortlessLookups {
    /// A hook may change mark or DSCP of outgoing packets, so that the kernel looks up their route again.
    pub outgoing: bool,
    /// A reverse-path check looks up the source of incoming packets.
    pub incoming: bool,
}

impl PortlessLookups {
    /// Whether there are such lookups.
    #[must_use]
    pub const fn any(self) -> bool {
        self.outgoing || self.incoming
    }
}

/// The desired state of routes, rules, marks and bypass policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Index of voicelane's TUN interface.
    pub tun: IfIndex,
    /// Uplinks. A family without one is not captured: its media stays in the VPN.
    pub uplinks: Uplinks,
    /// Destinations to capture.
    pub captures: Vec<Capture>,
    /// Families that a firewall blocks. Their rules match only sockets bound to the TUN, which only probes are.
    /// All other media stays in the VPN.
    pub blocked: Vec<Family>,
    /// Firewall marks of media.
    pub marks: FirewallMarks,
    /// Interfaces whose clients are to be captured, by family.
    pub clients: BTreeSet<(Family, String)>,
    /// Lookups without ports that media must pass.
    pub lookups: PortlessLookups,
}

impl Desired {
    /// Returns the clients that are captured: those of a family with an uplink that no firewall blocks.
    #[must_use]
    pub fn captured_clients(&self) -> BTreeSet<(Family, String)> {
        let is_direct =
            |family: Family| self.uplinks[family].is_some() && !self.blocked.contains(&family);
        let clients = self.clients.iter();
        clients.filter(|it| is_direct(it.0)).cloned().collect()
    }
}
