//! The words everything else is written in: prefixes, endpoints, five-tuples, sides, code points and ids.
//!
//! Nothing here touches a socket, a clock or the kernel. Each type says by its name which of two easily swapped
//! values it is, so that a mark is never passed for a table and an inside endpoint never for an outside one.

mod capture;
mod dscp;
mod egress;
mod endpoint;
mod filtering;
mod five_tuple;
mod id;
mod interface;
mod per_family;
mod port_range;
mod prefix;
mod role;
mod side;

pub use capture::{Capture, CaptureMode, UnknownCaptureMode};
pub use dscp::{Dscp, DscpError, Ecn, TrafficClass, Treatment};
pub use egress::Egress;
pub use endpoint::Endpoint;
pub use filtering::{Filtering, UnknownFiltering};
pub use five_tuple::{FiveTuple, Protocol, UnknownProtocol};
pub use id::{
    ConnectionId, Fwmark, IfIndex, MappingId, RouteProtocol, RouteTable, RuleId, RulePriority,
};
pub use interface::{InterfacePattern, InterfacePatternError};
pub use per_family::PerFamily;
pub use port_range::{PortRange, PortRangeError};
pub use prefix::{Family, Prefix, PrefixError};
pub use role::{Role, UnknownRole};
pub use side::{Inside, Outside};
