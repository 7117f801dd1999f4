//! Basic types: prefixes, endpoints, five-tuples, sides, code points and ids.
//!
//! Nothing here uses a socket, a clock or the kernel. Values that are easily swapped have distinct types, such as marks and
//! tables, or inside and outside endpoints.

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
mod service;
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
pub use service::PolicyService;
pub use side::{Inside, Outside};
