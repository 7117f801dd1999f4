//! Hysteresis of the uplink: a better uplink is selected after it has been stable, a lost one is left at once.
//!
//! A cable has a carrier long before its network works, and a bad cable comes and goes. So a candidate must have been
//! the best uplink for a while. The time doubles with each recent loss of that uplink.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::desired::Uplink;

/// Time for which a candidate must have been the best uplink.
const STABLE: Duration = Duration::from_secs(2);

/// Maximum number of doublings of [`STABLE`].
const DOUBLINGS: u32 = 5;

/// Time after which a loss no longer counts.
const MEMORY: Duration = Duration::from_mins(10);

/// The selected uplink of one family, its candidate and recent losses.
#[derive(Debug, Default)]
pub struct Hysteresis {
    current: Option<String>,
    /// A better uplink, and when it became the best.
    candidate: Option<(String, Instant)>,
    losses: BTreeMap<String, Losses>,
}

#[derive(Clone, Copy, Debug)]
struct Losses {
    times: u32,
    last: Instant,
}

impl Hysteresis {
    /// Selects one of the usable uplinks, which are ranked best first.
    ///
    /// Also returns when to select again if nothing changes before.
    pub fn select(
        &mut self,
        mut ranked: Vec<Uplink>,
        now: Instant,
    ) -> (Option<Uplink>, Option<Instant>) {
        self.losses
            .retain(|_, losses| now.saturating_duration_since(losses.last) < MEMORY);
        let place = |name: &String| ranked.iter().position(|uplink| uplink.name == *name);
        let current = self.current.as_ref().and_then(place);
        if current.is_none()
            && let Some(lost) = self.current.take()
        {
            let losses = self.losses.entry(lost).or_insert(Losses {
                times: 0,
                last: now,
            });
            *losses = Losses {
                times: losses.times + 1,
                last: now,
            };
        }
        let (selected, again) = match current {
            None | Some(0) => {
                self.candidate = None;
                (0, None)
            }
            Some(current) => {
                let stable = self.stable_at(&ranked[0].name, now);
                if stable <= now {
                    self.candidate = None;
                    (0, None)
                } else {
                    (current, Some(stable))
                }
            }
        };
        if selected >= ranked.len() {
            return (None, None);
        }
        let uplink = ranked.swap_remove(selected);
        self.current = Some(uplink.name.clone());
        (Some(uplink), again)
    }

    /// Returns when the candidate will have been stable for long enough.
    fn stable_at(&mut self, name: &str, now: Instant) -> Instant {
        let since = match &self.candidate {
            Some((candidate, since)) if candidate == name => *since,
            _ => now,
        };
        self.candidate = Some((name.to_owned(), since));
        let losses = self.losses.get(name).map_or(0, |losses| losses.times);
        since + STABLE * 2_u32.pow(losses.min(DOUBLINGS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::IfIndex;
    use crate::route::desired::{UplinkEvidence, UplinkGateway};

    fn ranked(names: &[&str]) -> Vec<Uplink> {
        let uplink = |name: &&str| Uplink {
            name: (*name).to_owned(),
            index: IfIndex(2),
            gateway: UplinkGateway::OnLink,
            why: UplinkEvidence::DefaultRoute,
        };
        names.iter().map(uplink).collect()
    }

    /// Selects at each time in milliseconds among the usable uplinks, and compares the result.
    #[track_caller]
    fn select_each(
        hysteresis: &mut Hysteresis,
        start: Instant,
        steps: &[(u64, &[&str], Option<&str>)],
    ) {
        for (at, usable, expected) in steps {
            let (selected, _) =
                hysteresis.select(ranked(usable), start + Duration::from_millis(*at));
            let selected = selected.map(|uplink| uplink.name);
            assert_eq!(selected.as_deref(), *expected, "at {at} ms");
        }
    }

    #[test]
    fn a_better_one_waits_and_a_lost_one_does_not() {
        let (mut hysteresis, start) = (Hysteresis::default(), Instant::now());
        select_each(
            &mut hysteresis,
            start,
            &[
                (0, &["wlan0"], Some("wlan0")),
                (100, &["eth0", "wlan0"], Some("wlan0")),
                (2_000, &["eth0", "wlan0"], Some("wlan0")),
                (2_100, &["eth0", "wlan0"], Some("eth0")),
                (2_200, &["wlan0"], Some("wlan0")),
                (2_300, &[], None),
                (2_400, &["eth0", "wlan0"], Some("eth0")),
            ],
        );
    }

    #[test]
    fn it_returns_when_to_select_again() {
        let (mut hysteresis, start) = (Hysteresis::default(), Instant::now());
        assert_eq!(hysteresis.select(ranked(&["wlan0"]), start).1, None);
        for at in [0, 500] {
            let again = hysteresis
                .select(
                    ranked(&["eth0", "wlan0"]),
                    start + Duration::from_millis(at),
                )
                .1;
            assert_eq!(again, Some(start + STABLE));
        }
        let (_, again) = hysteresis.select(ranked(&["eth0", "wlan0"]), start + STABLE);
        assert_eq!(again, None);
    }

    #[test]
    fn a_lost_uplink_must_be_stable_for_longer() {
        let (mut hysteresis, start) = (Hysteresis::default(), Instant::now());
        let both: &[&str] = &["eth0", "wlan0"];
        select_each(
            &mut hysteresis,
            start,
            &[
                (0, both, Some("eth0")),
                (100, &["wlan0"], Some("wlan0")),
                (200, both, Some("wlan0")),
                (4_100, both, Some("wlan0")),
                // An interruption starts the time again.
                (4_150, &["wlan0"], Some("wlan0")),
                (4_300, both, Some("wlan0")),
                (8_200, both, Some("wlan0")),
                (8_300, both, Some("eth0")),
            ],
        );
    }

    #[test]
    fn a_loss_is_forgotten() {
        let (mut hysteresis, start) = (Hysteresis::default(), Instant::now());
        let both: &[&str] = &["eth0", "wlan0"];
        select_each(
            &mut hysteresis,
            start,
            &[
                (0, both, Some("eth0")),
                (100, &["wlan0"], Some("wlan0")),
                (700_000, both, Some("wlan0")),
                (702_000, both, Some("eth0")),
            ],
        );
    }
}
