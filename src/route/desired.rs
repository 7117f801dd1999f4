//! The desired state of the kernel: routing ids, uplinks, captured destinations, firewall marks and clients.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::net::{
    Capture, Family, Fwmark, IfIndex, PerFamily, RouteProtocol, RouteTable, RulePriority,
};

/// How many tables, from the base upwards, are ours.
pub(super) const TABLES: u32 = 1024;

/// The ids by which the kernel and its administrator know our objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingIds {
    /// The protocol number on each of our routes and rules.
    pub protocol: RouteProtocol,
    /// The table with the uplink's way out; the tables above it hold the captured prefixes.
    pub table: RouteTable,
    /// The highest priority number, hence the last place, that our rules take.
    pub priority: RulePriority,
    /// The mark of our own sockets.
    pub mark: Fwmark,
    /// The bits of a mark that are ours.
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
    /// The mark of the relay's sockets that lead into the VPN: ours too, so that no capture takes it, but another than
    /// [`RoutingIds::mark`], which firewalls may let by.
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

    /// The mark of clients' packets that are to be captured: ours too, and neither of the relay's.
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

/// The physical way out of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The interface's name.
    pub name: String,
    /// The interface's index.
    pub index: IfIndex,
    /// Where its packets go from there.
    pub gateway: UplinkGateway,
    /// What spoke for this interface.
    pub why: UplinkEvidence,
}

/// The way out of each family that has one: by the same link, or by two.
pub type Uplinks = PerFamily<Option<Uplink>>;

/// The next hop of a way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkGateway {
    /// A router. It may be of the other family (RFC 5549).
    Via(IpAddr),
    /// Nobody: the destinations are reached on the link itself, as on a point-to-point line.
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

/// The evidence for an uplink, in falling order of trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UplinkEvidence {
    /// It was named by the user.
    Pinned,
    /// The best default route of the main table leaves by it.
    DefaultRoute,
    /// A host route leaves by it through a gateway, as a VPN makes to its server when it replaces the default route.
    HostRoute,
    /// A default route of another table leaves by it.
    OtherTable(RouteTable),
}

impl fmt::Display for UplinkEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.pad("named by the user"),
            Self::DefaultRoute => f.pad("the default route"),
            Self::HostRoute => f.pad("the host route to the VPN server"),
            Self::OtherTable(table) => write!(f, "the default route of table {table}"),
        }
    }
}

/// What a VPN's firewall knows its own packets by, lent to media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirewallMarks {
    /// The VPN's mark, in the place of ours.
    pub mark: Option<Fwmark>,
    /// The mark of a connection.
    pub conntrack_mark: Option<Fwmark>,
}

/// What is to be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Our TUN.
    pub tun: IfIndex,
    /// The ways out. Of a family without one nothing is captured: better in the VPN than nowhere.
    pub uplinks: Uplinks,
    /// What to capture.
    pub captures: Vec<Capture>,
    /// Families that a firewall forbids a way of: their rules hold for sockets that are bound to our TUN, which only
    /// probes are, and everybody else's media stays in the VPN.
    pub blocked: Vec<Family>,
    /// What a VPN's firewall knows its own packets by, when media is to bear it.
    pub marks: FirewallMarks,
    /// The interfaces of whose clients media is captured, by family.
    pub clients: BTreeSet<(Family, String)>,
}

impl Desired {
    /// Of which clients media is captured: of those that are wanted, where the family has a way out.
    #[must_use]
    pub fn captured_clients(&self) -> BTreeSet<(Family, String)> {
        let has_way =
            |family: Family| self.uplinks[family].is_some() && !self.blocked.contains(&family);
        let clients = self.clients.iter();
        clients.filter(|it| has_way(it.0)).cloned().collect()
    }
}
