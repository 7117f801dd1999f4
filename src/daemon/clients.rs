//! Of a gateway's clients: whose media is to be captured, and for whom a firewall was seen to refuse it.
//!
//! What refuses clients' packets is seen by the packets that it refuses, so that it takes some to find out. Their media
//! is better in the VPN then. Whether it is still so is only seen by trying again, which costs each call the packets of
//! the moment that it takes; so that is done seldom.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::config::GatewaySettings;
use crate::control::EventKind;
use crate::net::Family;
use crate::nftables::BlockedPath;

use super::events::Events;

/// How long clients' media stays in the VPN before it is tried again whether the firewall lets it by.
const RETRY: Duration = Duration::from_mins(1);

/// How long nothing may be refused before that is believed.
const TRIAL: Duration = Duration::from_secs(10);

/// A family, and the interface of its clients.
type Who = (Family, String);

/// What a firewall refused, and what comes next.
#[derive(Debug)]
struct Refused {
    obstacle: BlockedPath,
    /// When it is tried again; none while it is tried.
    again: Option<Instant>,
    /// When it is over, unless it is refused again.
    over: Instant,
}

/// Whose media is refused.
#[derive(Debug, Default)]
pub(super) struct Clients {
    refused: BTreeMap<Who, Refused>,
}

impl Clients {
    /// Of whom media is to be captured now.
    pub(super) fn wanted(
        &mut self,
        gateway: &GatewaySettings,
        now: Instant,
        events: &Events,
    ) -> BTreeSet<Who> {
        let interfaces = gateway.interfaces.iter().map(ToString::to_string);
        let all: BTreeSet<Who> = interfaces
            .flat_map(|it| [(Family::V4, it.clone()), (Family::V6, it)])
            .collect();
        self.refused.retain(|who, refused| {
            if refused.again.is_some_and(|again| again <= now) {
                refused.again = None;
            }
            let stays = all.contains(who) && (refused.again.is_some() || now < refused.over);
            if !stays {
                let reason = "no firewall blocks their media any more";
                events.record(EventKind::FirewallUnblocked, named(who), reason);
            }
            stays
        });
        let is_tried = |who: &Who| self.refused.get(who).is_none_or(|it| it.again.is_none());
        all.into_iter().filter(is_tried).collect()
    }

    /// Takes the news that a firewall refused a packet.
    pub(super) fn refuse(&mut self, obstacle: BlockedPath, now: Instant, events: &Events) {
        let who = (
            obstacle.family,
            obstacle.clients.clone().unwrap_or_default(),
        );
        if !self.refused.contains_key(&who) {
            events.record(EventKind::FirewallBlocked, named(&who), &obstacle);
        }
        let again = now + RETRY;
        let refused = Refused {
            obstacle,
            again: Some(again),
            over: again + TRIAL,
        };
        self.refused.insert(who, refused);
    }

    /// When [`Clients::wanted`] says something else than now.
    pub(super) fn due(&self) -> Option<Instant> {
        let refused = self.refused.values();
        refused.map(|it| it.again.unwrap_or(it.over)).min()
    }

    /// A sentence for each.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.refused.values().map(|it| it.obstacle.to_string())
    }
}

fn named((family, interface): &Who) -> String {
    format!("{family} clients on {interface}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::nftables::MediaPath;

    fn obstacle() -> BlockedPath {
        BlockedPath {
            family: Family::V4,
            path: MediaPath::Forwarded,
            link: "voicelane0".to_owned(),
            clients: Some("lan0".to_owned()),
            mark: None,
            rule: None,
        }
    }

    #[test]
    fn who_is_refused_is_tried_again_and_told_of_once() {
        let text = "version = 1\n[gateway]\ninterfaces = ['lan0']";
        let config = Config::parse("it.toml", text).expect("valid");
        let home = tempfile::tempdir().expect("a directory");
        let (events, start) = (Events::open(home.path()), Instant::now());
        let mut clients = Clients::default();
        let wanted = |clients: &mut Clients, at: Duration| {
            let wanted = clients.wanted(config.gateway(), start + at, &events);
            wanted.into_iter().map(|it| it.0).collect::<Vec<_>>()
        };
        let both = [Family::V4, Family::V6];
        assert_eq!(wanted(&mut clients, Duration::ZERO), both);
        clients.refuse(obstacle(), start, &events);
        assert_eq!(wanted(&mut clients, Duration::ZERO), [Family::V6]);
        assert_eq!(clients.due(), Some(start + RETRY));

        assert_eq!(wanted(&mut clients, RETRY), both, "it is tried");
        assert_eq!(clients.warnings().count(), 1, "and not yet believed");
        clients.refuse(obstacle(), start + RETRY, &events);
        assert_eq!(wanted(&mut clients, RETRY), [Family::V6]);

        assert_eq!(wanted(&mut clients, RETRY * 2), both, "tried again");
        assert_eq!(wanted(&mut clients, RETRY * 2 + TRIAL), both);
        assert_eq!((clients.due(), clients.warnings().count()), (None, 0));
    }
}
