//! When to move to a better uplink: not before it has proven itself, and at once when the present one is lost.
//!
//! A cable that is plugged in has a carrier long before its network works, and a bad one comes and goes. So a better
//! uplink must have been the best for a while before media moves, and the while doubles with each time that this very
//! uplink was lost under us of late. Nothing is lost by waiting: the present one still works.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::desired::Uplink;

/// How long a better uplink must have been there before media moves to it.
const PROOF: Duration = Duration::from_secs(2);

/// How often that doubles at most.
const DOUBLINGS: u32 = 5;

/// After which time a loss is forgotten.
const MEMORY: Duration = Duration::from_mins(10);

/// Which uplink is held of a family, and what is remembered of others.
#[derive(Debug, Default)]
pub struct Hysteresis {
    held: Option<String>,
    /// The better one, and since when it is.
    candidate: Option<(String, Instant)>,
    losses: BTreeMap<String, Losses>,
}

#[derive(Clone, Copy, Debug)]
struct Losses {
    times: u32,
    last: Instant,
}

impl Hysteresis {
    /// Picks one of the usable uplinks, of which the best comes first; and says when to look again, if nothing else
    /// happens before.
    pub fn pick(
        &mut self,
        mut ranked: Vec<Uplink>,
        now: Instant,
    ) -> (Option<Uplink>, Option<Instant>) {
        self.losses
            .retain(|_, losses| now.saturating_duration_since(losses.last) < MEMORY);
        let place = |name: &String| ranked.iter().position(|uplink| uplink.name == *name);
        let held = self.held.as_ref().and_then(place);
        if held.is_none()
            && let Some(lost) = self.held.take()
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
        let (picked, again) = match held {
            None | Some(0) => {
                self.candidate = None;
                (0, None)
            }
            Some(held) => {
                let proven = self.stable_since(&ranked[0].name, now);
                if proven <= now {
                    self.candidate = None;
                    (0, None)
                } else {
                    (held, Some(proven))
                }
            }
        };
        if picked >= ranked.len() {
            return (None, None);
        }
        let uplink = ranked.swap_remove(picked);
        self.held = Some(uplink.name.clone());
        (Some(uplink), again)
    }

    /// When the candidate will have proven itself.
    fn stable_since(&mut self, name: &str, now: Instant) -> Instant {
        let since = match &self.candidate {
            Some((candidate, since)) if candidate == name => *since,
            _ => now,
        };
        self.candidate = Some((name.to_owned(), since));
        let losses = self.losses.get(name).map_or(0, |losses| losses.times);
        since + PROOF * 2_u32.pow(losses.min(DOUBLINGS))
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

    /// Feeds (milliseconds, what is usable, what is expected).
    #[track_caller]
    fn follow(hold: &mut Hysteresis, start: Instant, steps: &[(u64, &[&str], Option<&str>)]) {
        for (at, usable, expected) in steps {
            let (picked, _) = hold.pick(ranked(usable), start + Duration::from_millis(*at));
            let picked = picked.map(|uplink| uplink.name);
            assert_eq!(picked.as_deref(), *expected, "at {at} ms");
        }
    }

    #[test]
    fn a_better_one_waits_and_a_lost_one_does_not() {
        let (mut hold, start) = (Hysteresis::default(), Instant::now());
        follow(
            &mut hold,
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
    fn it_says_when_to_look_again() {
        let (mut hold, start) = (Hysteresis::default(), Instant::now());
        assert_eq!(hold.pick(ranked(&["wlan0"]), start).1, None);
        for at in [0, 500] {
            let again = hold
                .pick(
                    ranked(&["eth0", "wlan0"]),
                    start + Duration::from_millis(at),
                )
                .1;
            assert_eq!(again, Some(start + PROOF));
        }
        let (_, again) = hold.pick(ranked(&["eth0", "wlan0"]), start + PROOF);
        assert_eq!(again, None);
    }

    #[test]
    fn who_was_lost_must_prove_more() {
        let (mut hold, start) = (Hysteresis::default(), Instant::now());
        let both: &[&str] = &["eth0", "wlan0"];
        follow(
            &mut hold,
            start,
            &[
                (0, both, Some("eth0")),
                (100, &["wlan0"], Some("wlan0")),
                (200, both, Some("wlan0")),
                (4_100, both, Some("wlan0")),
                // An interruption begins the proof anew.
                (4_150, &["wlan0"], Some("wlan0")),
                (4_300, both, Some("wlan0")),
                (8_200, both, Some("wlan0")),
                (8_300, both, Some("eth0")),
            ],
        );
    }

    #[test]
    fn a_loss_is_forgotten() {
        let (mut hold, start) = (Hysteresis::default(), Instant::now());
        let both: &[&str] = &["eth0", "wlan0"];
        follow(
            &mut hold,
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
