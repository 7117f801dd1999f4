//! The laptop's world: what happens in it, and what witnesses count who can keep up.

use std::net::{SocketAddr, UdpSocket};

use serde_json::Value;

use super::calls::{Calls, PORTS};
use super::config;
use crate::support::addresses::{self as at, DualAddress};
use crate::support::caller::{Family, udp};
use crate::support::echo::Echo;
use crate::support::namespace::Namespace;
use crate::support::voicelane::Voicelane;
use crate::support::vpn::{Vpn, VpnKind};
use crate::support::{CABLE, Lab, MEDIA_PORT, UPLINK};

/// Another policy that captures the same media: more ranges, by other ports.
const OTHER_SERVICE: &str = r#"
[[service]]
name = "lab-other"
description = "More of the lab's media gateways"
role = "media"
protocol = "udp"
prefixes = ["2001:db8:99::/48", "198.18.7.0/24"]
ports = ["5000-6000"]
dscp = "EF"
allow_special_purpose = true
"#;

/// What happens, by turns. It is a lost link that moves media: one that comes back is on probation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happening {
    OtherPolicy,
    CableLost,
    AddressChanged,
    CableBack,
    CallsReplaced,
    FirstPolicy,
    WifiLost,
    WifiBack,
}

use Happening::{
    AddressChanged, CableBack, CableLost, CallsReplaced, FirstPolicy, OtherPolicy, WifiBack,
    WifiLost,
};

/// All of it, in order: the end is as the beginning.
pub(crate) const COURSE: [Happening; 8] = [
    OtherPolicy,
    CableLost,
    AddressChanged,
    CableBack,
    CallsReplaced,
    FirstPolicy,
    WifiLost,
    WifiBack,
];

/// The lab with a cable and a VPN, an application whose traffic is no media, and witnesses that only count.
pub(crate) struct World {
    pub(crate) lab: Lab,
    others: [(UdpSocket, SocketAddr); 2],
    /// The Wi-Fi's IPv4 address ends with it.
    host: u8,
    replacements: usize,
    /// Calls that ended while others went on.
    pub(crate) replaced: usize,
    _vpn: Vpn,
    _echo: Echo,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut lab = Lab::new();
        lab.plug_in();
        // Captures could not keep up.
        lab.stop_captures();
        let (media, vpn, other) = (at::MEDIA, at::VPN_SERVER, at::OTHER);
        let [first, last] = PORTS;
        lab.home.nft(&format!(
            "table inet witness {{
                 counter marked {{}}
                 counter unmarked {{}}
                 counter other {{}}
                 chain pass {{
                     type filter hook forward priority 0
                     iifname != \"lan*\" accept
                     ip daddr {} udp dport {first}-{last} ip dscp ef counter name marked accept
                     ip6 daddr {} udp dport {first}-{last} ip6 dscp ef counter name marked accept
                     ip daddr {} counter name unmarked accept
                     ip6 daddr {} counter name unmarked accept
                     ip daddr {} accept
                     ip6 daddr {} accept
                     counter name other
                 }}
             }}",
            media.v4, media.v6, media.v4, media.v6, vpn.v4, vpn.v6
        ));
        lab.gateway.nft(&format!(
            "table inet witness {{
                 counter media {{}}
                 counter other {{}}
                 chain pass {{
                     type filter hook forward priority 0
                     oifname != wan0 accept
                     ip daddr {} counter name media
                     ip6 daddr {} counter name media
                     ip daddr {} counter name other
                     ip6 daddr {} counter name other
                 }}
             }}",
            media.v4, media.v6, other.v4, other.v6
        ));
        let [rtp, rtcp] = PORTS.map(|port| media.both(port));
        let others = Family::BOTH.map(|family| {
            let any = SocketAddr::new(family.unspecified(), 0);
            (udp(&lab.laptop, any), other.at(family, MEDIA_PORT))
        });
        Self {
            others,
            host: 10,
            replacements: 0,
            replaced: 0,
            _vpn: lab.start_vpn(VpnKind::WgQuick),
            _echo: Echo::start(&lab.internet, &[rtp, rtcp].concat(), &[]),
            lab,
        }
    }

    /// What the laptop has sent past the VPN: marked media, media without its mark, and what is neither media nor the VPN.
    pub(crate) fn past_the_vpn(&self) -> [u64; 3] {
        ["marked", "unmarked", "other"].map(|name| count(&self.lab.home, name))
    }

    /// What the laptop has sent through the VPN: media, and what is none.
    pub(crate) fn in_the_vpn(&self) -> [u64; 2] {
        ["media", "other"].map(|name| count(&self.lab.gateway, name))
    }

    /// Sends what is no media. The VPN may not be there yet.
    pub(crate) fn ask_others(&self) {
        for (socket, to) in &self.others {
            let _ = socket.send_to(b"no media", to);
        }
    }

    /// How many were answered, of each family.
    pub(crate) fn answers_of_others(&self) -> [usize; 2] {
        self.others
            .each_ref()
            .map(|(socket, _)| usize::from(socket.recv(&mut [0; 9]).is_ok()))
    }

    /// What a network manager does to a link's default routes when its carrier goes, and when it comes.
    fn route(&self, link: &str, via: Option<(DualAddress, u32)>) {
        self.lab.laptop.ip(&match via {
            None => format!("route del default dev {link}\nroute del ::/0 dev {link}"),
            Some((DualAddress { v4, v6 }, metric)) => format!(
                "route add default via {v4} dev {link} metric {metric}\n\
                 route add ::/0 via {v6} dev {link} metric {metric}"
            ),
        });
    }

    /// Lets it happen, to its end.
    pub(crate) fn undergo(&mut self, happening: Happening, calls: &Calls, voicelane: &Voicelane) {
        let (laptop, home) = (&self.lab.laptop, &self.lab.home);
        match happening {
            OtherPolicy => reload(voicelane, OTHER_SERVICE),
            FirstPolicy => reload(voicelane, ""),
            CallsReplaced => {
                // Each time others: a tenth of all.
                self.replacements += 1;
                self.replaced += calls.replace(laptop, self.replacements % 10, 10);
            }
            CableLost => {
                home.ip("link set lan1 down");
                self.route(CABLE, None);
            }
            CableBack => {
                home.ip("link set lan1 up");
                self.route(CABLE, Some((at::HOME_CABLE, 100)));
            }
            WifiLost => {
                home.ip("link set lan0 down");
                self.route(UPLINK, None);
            }
            WifiBack => {
                home.ip("link set lan0 up");
                self.route(UPLINK, Some((at::HOME, 600)));
            }
            AddressChanged => {
                let old = self.host;
                self.host = 10 + (old + 1) % 200;
                let (next, via) = (self.host, at::HOME.v4);
                laptop.ip(&format!(
                    "addr del 192.168.7.{old}/24 dev {UPLINK}\n\
                     addr add 192.168.7.{next}/24 dev {UPLINK}\n\
                     route replace default via {via} dev {UPLINK} metric 600"
                ));
            }
        }
    }
}

fn reload(voicelane: &Voicelane, services: &str) {
    voicelane.configure(&config(services));
    let said = voicelane.reload();
    assert!(said.status.success(), "{said:?}");
}

/// A counter of a namespace's witness.
fn count(namespace: &Namespace, name: &str) -> u64 {
    let text = namespace.run(&format!("nft -j list counter inet witness {name}"));
    let said: Value = serde_json::from_str(&text).expect("nft writes JSON");
    let all = said["nftables"].as_array().expect("a list");
    let found = all.iter().find_map(|it| it["counter"]["packets"].as_u64());
    found.unwrap_or_else(|| panic!("no counter {name}: {text}"))
}
