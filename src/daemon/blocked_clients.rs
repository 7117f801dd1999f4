//! The clients of a gateway: which groups are captured, and which groups a firewall blocks.
//!
//! Only dropped packets show a block, and only another attempt shows its end. Each attempt costs every call some packets,
//! so attempts are rare. Between them the media stays in the VPN.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::config::GatewaySettings;
use crate::control::EventKind;
use crate::net::Family;
use crate::nftables::BlockedPath;

use super::events::EventLog;

/// Time from a block to the next attempt.
const RETRY: Duration = Duration::from_mins(1);

/// The time of an attempt without a dropped packet after which the block is over.
const ATTEMPT: Duration = Duration::from_secs(10);

/// A family, and the interface of its clients.
type ClientGroup = (Family, String);

/// A block, and its next step.
#[derive(Debug)]
struct ClientBlock {
    path: BlockedPath,
    /// The time of the next attempt; none during an attempt.
    retry_at: Option<Instant>,
    /// The end of the block, unless another packet is dropped.
    ends_at: Instant,
}

/// The client groups with a block.
#[derive(Debug, Default)]
pub(super) struct BlockedClients {
    blocks: BTreeMap<ClientGroup, ClientBlock>,
}

impl BlockedClients {
    /// Returns the client groups that can be captured now.
    pub(super) fn capturable(
        &mut self,
        gateway: &GatewaySettings,
        now: Instant,
        events: &EventLog,
    ) -> BTreeSet<ClientGroup> {
        let interfaces = gateway.interfaces.iter().map(ToString::to_string);
        let all: BTreeSet<ClientGroup> = interfaces
            .flat_map(|it| [(Family::V4, it.clone()), (Family::V6, it)])
            .collect();
        self.blocks.retain(|group, block| {
            block.retry_at.take_if(|retry_at| *retry_at <= now);
            let stays = all.contains(group) && (block.retry_at.is_some() || now < block.ends_at);
            if !stays {
                let reason = "no firewall blocks their media any more";
                events.record(EventKind::FirewallUnblocked, named(group), reason);
            }
            stays
        });
        let blocks = &self.blocks;
        let is_open =
            |group: &ClientGroup| blocks.get(group).is_none_or(|it| it.retry_at.is_none());
        all.into_iter().filter(is_open).collect()
    }

    /// Records that a firewall dropped a packet of a client.
    pub(super) fn on_blocked(&mut self, path: BlockedPath, now: Instant, events: &EventLog) {
        let group = (path.family, path.clients.clone().unwrap_or_default());
        if !self.blocks.contains_key(&group) {
            events.record(EventKind::FirewallBlocked, named(&group), &path);
        }
        let retry_at = now + RETRY;
        let block = ClientBlock {
            path,
            retry_at: Some(retry_at),
            ends_at: retry_at + ATTEMPT,
        };
        self.blocks.insert(group, block);
    }

    /// The time at which [`BlockedClients::to_capture`] changes.
    pub(super) fn due(&self) -> Option<Instant> {
        let blocks = self.blocks.values();
        blocks.map(|it| it.retry_at.unwrap_or(it.ends_at)).min()
    }

    /// A sentence for each block.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.blocks.values().map(|it| it.path.to_string())
    }
}

fn named((family, interface): &ClientGroup) -> String {
    format!("{family} clients on {interface}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::nftables::MediaPath;

    fn blocked_path() -> BlockedPath {
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
    fn a_block_is_retried_and_ends_after_an_attempt_without_drops() {
        let text = "version = 1\n[gateway]\ninterfaces = ['lan0']";
        let config = Config::parse("it.toml", text).expect("valid");
        let home = tempfile::tempdir().expect("a directory");
        let (events, start) = (EventLog::open(home.path()), Instant::now());
        let mut clients = BlockedClients::default();
        let captured = |clients: &mut BlockedClients, at: Duration| {
            let captured = clients.capturable(config.gateway(), start + at, &events);
            captured.into_iter().map(|it| it.0).collect::<Vec<_>>()
        };
        let both = [Family::V4, Family::V6];
        assert_eq!(captured(&mut clients, Duration::ZERO), both);
        clients.on_blocked(blocked_path(), start, &events);
        assert_eq!(captured(&mut clients, Duration::ZERO), [Family::V6]);
        assert_eq!(clients.due(), Some(start + RETRY));

        assert_eq!(captured(&mut clients, RETRY), both, "an attempt");
        assert_eq!(clients.warnings().count(), 1, "the block is not over yet");
        clients.on_blocked(blocked_path(), start + RETRY, &events);
        assert_eq!(captured(&mut clients, RETRY), [Family::V6]);

        assert_eq!(captured(&mut clients, RETRY * 2), both, "another attempt");
        assert_eq!(captured(&mut clients, RETRY * 2 + ATTEMPT), both);
        assert_eq!((clients.due(), clients.warnings().count()), (None, 0));
    }
}
