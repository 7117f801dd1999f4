//! Selects the uplink of each family, and derives events and driver messages from a change.
//!
//! Each family has its own selection and hysteresis ([`crate::route::hysteresis`]). Where both families change
//! together, one event describes both.

use std::time::Instant;

use crate::control::EventKind;
use crate::net::{Family, Fwmark, PerFamily};
use crate::relay::SocketSetupError;
use crate::route::desired::Uplink;
use crate::route::hysteresis::Hysteresis;
use crate::route::observed::Observed;
use crate::route::uplink::UplinkError;

use super::driver::DriverMessage;
use super::uplink_binding::{Moves, UplinkBinding, UplinkBindings, names};

/// The uplinks in force, and the state of the selection.
#[derive(Debug, Default)]
pub(super) struct UplinkSelector {
    /// The uplinks in force.
    uplinks: UplinkBindings,
    /// The uplinks last sent to the driver, which keeps the sockets of a family without an uplink.
    announced: UplinkBindings,
    hysteresis: PerFamily<Hysteresis>,
    next_candidate_at: Option<Instant>,
    without_uplink: Option<UplinkError>,
    /// Whether `without_uplink` has changed.
    is_reason_new: bool,
}

/// The events and messages of a change.
#[derive(Debug, Default)]
pub(super) struct UplinkSwitch {
    pub(super) events: Vec<PendingEvent>,
    pub(super) messages: Vec<DriverMessage>,
}

/// An event to be recorded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PendingEvent {
    pub(super) kind: EventKind,
    pub(super) subject: String,
    pub(super) reason: String,
}

impl UplinkSelector {
    /// The uplinks in force.
    pub(super) const fn uplinks(&self) -> &UplinkBindings {
        &self.uplinks
    }

    /// The time at which a better uplink has been stable for long enough.
    pub(super) const fn next_candidate_at(&self) -> Option<Instant> {
        self.next_candidate_at
    }

    /// The reason if there is no uplink.
    pub(super) const fn without_uplink(&self) -> Option<&UplinkError> {
        self.without_uplink.as_ref()
    }

    /// Selects the uplink of each family. `marks` are the marks of direct sockets and of tunnel sockets.
    pub(super) fn select(
        &mut self,
        ranked: Result<PerFamily<Vec<Uplink>>, UplinkError>,
        observed: &Observed,
        marks: (Fwmark, Fwmark),
        now: Instant,
    ) -> UplinkBindings {
        let without_uplink = ranked.as_ref().err().cloned();
        self.is_reason_new = self.without_uplink != without_uplink;
        self.without_uplink = without_uplink;
        self.next_candidate_at = None;
        let mut ranked = ranked.unwrap_or_default();
        PerFamily::new(|family| {
            let ranked = std::mem::take(&mut ranked[family]);
            let (uplink, next_candidate_at) = self.hysteresis[family].select(ranked, now);
            self.next_candidate_at = self
                .next_candidate_at
                .into_iter()
                .chain(next_candidate_at)
                .min();
            Some(UplinkBinding::new(family, uplink?, observed, marks))
        })
    }

    /// Switches to these uplinks, after a test socket was opened on each new one.
    ///
    /// # Errors
    /// [`SocketSetupError`]; the previous uplinks stay.
    pub(super) fn switch_to(
        &mut self,
        uplinks: UplinkBindings,
    ) -> Result<UplinkSwitch, SocketSetupError> {
        let mut switch = UplinkSwitch::default();
        if let (true, Some(error)) = (self.is_reason_new, &self.without_uplink) {
            let lost = names(&self.uplinks);
            switch.events.push(PendingEvent {
                kind: match lost {
                    Some(_) => EventKind::UplinkLost,
                    None => EventKind::UplinkMissing,
                },
                subject: lost.unwrap_or_else(|| "uplink".to_owned()),
                reason: format!("media stays in the VPN: {error}"),
            });
        }
        if uplinks == self.uplinks {
            return Ok(switch);
        }
        let (mut moves, mut announced) = (Moves::default(), self.announced.clone());
        for (family, binding) in uplinks.present() {
            let previous = self.announced[family].as_ref();
            if previous != Some(binding) {
                binding.open()?;
                moves[family] =
                    previous.is_none_or(|previous| binding.needs_new_sockets_since(previous));
                announced[family] = Some(binding.clone());
            }
        }
        switch.events.extend(self.changes(&uplinks));
        if announced != self.announced {
            let sockets =
                PerFamily::new(|family| Some(announced[family].as_ref()?.sockets.clone()));
            switch.messages.push(DriverMessage::Uplinks(sockets, moves));
            self.announced = announced;
        }
        let restored = uplinks.present().map(|(family, _)| family);
        let restored = restored.filter(|family| self.uplinks[*family].is_none() && !moves[*family]);
        switch
            .messages
            .extend(restored.map(DriverMessage::UplinkRestored));
        self.uplinks = uplinks;
        Ok(switch)
    }

    /// The events of a change. Families with the same link and reason share an event.
    fn changes(&self, uplinks: &UplinkBindings) -> Vec<PendingEvent> {
        let mut changes = Vec::<(&str, String, Vec<Family>)>::new();
        let with_uplink = uplinks.present().count();
        for (family, binding) in uplinks.iter() {
            let (link, reason) = match (binding, &self.uplinks[family]) {
                (Some(binding), _) if self.announced[family].as_ref() != Some(binding) => {
                    (&binding.uplink.name, self.reason(family, binding))
                }
                // The loss of the last uplink has an event of its own.
                (None, Some(previous)) if with_uplink > 0 => {
                    let reason = "no uplink any more; its media stays in the VPN".to_owned();
                    (&previous.uplink.name, reason)
                }
                _ => continue,
            };
            let mut others = changes.iter_mut();
            match others.find(|it| it.0 == link && it.1 == reason) {
                Some((.., families)) => families.push(family),
                None => changes.push((link, reason, vec![family])),
            }
        }
        let event = |(link, reason, families): (&str, String, Vec<Family>)| PendingEvent {
            kind: EventKind::UplinkChanged,
            subject: link.to_owned(),
            reason: match families[..] {
                [family] if with_uplink > 1 || uplinks[family].is_none() => {
                    format!("{family}: {reason}")
                }
                _ => reason,
            },
        };
        changes.into_iter().map(event).collect()
    }

    fn reason(&self, family: Family, binding: &UplinkBinding) -> String {
        let evidence = binding.uplink.why;
        match &self.announced[family] {
            Some(previous) if previous.uplink.name != binding.uplink.name => {
                format!("{evidence}; previously {}", previous.uplink.name)
            }
            _ => evidence.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::IfIndex;
    use crate::route::desired::{UplinkEvidence, UplinkGateway};

    fn uplinks(v4: Option<&str>, v6: Option<&str>) -> UplinkBindings {
        let binding = |family, name: &str| {
            let uplink = Uplink {
                name: name.to_owned(),
                index: IfIndex(u32::try_from(name.len()).expect("a short name")),
                gateway: UplinkGateway::OnLink,
                why: UplinkEvidence::DefaultRoute,
            };
            UplinkBinding::new(family, uplink, &Observed::default(), (Fwmark(1), Fwmark(2)))
        };
        UplinkBindings {
            v4: v4.map(|name| binding(Family::V4, name)),
            v6: v6.map(|name| binding(Family::V6, name)),
        }
    }

    #[test]
    fn families_on_different_links_have_separate_events() {
        let mut selector = UplinkSelector::default();
        let mut step = |v4, v6| {
            let uplinks = uplinks(v4, v6);
            let announced = selector.changes(&uplinks);
            for (family, binding) in uplinks.present() {
                selector.announced[family] = Some(binding.clone());
            }
            selector.uplinks = uplinks;
            let announced = announced.into_iter();
            announced
                .map(|it| format!("{} {}", it.subject, it.reason))
                .collect::<Vec<_>>()
        };
        let (eth, wlan) = (Some("eth0"), Some("wlan0"));
        assert_eq!(step(eth, None), ["eth0 the default route"]);
        assert_eq!(step(eth, wlan), ["wlan0 IPv6: the default route"]);
        let gone = "wlan0 IPv6: no uplink any more; its media stays in the VPN";
        assert_eq!(step(eth, None), [gone]);
        let moved = "eth0 IPv6: the default route; previously wlan0";
        assert_eq!(step(eth, eth), [moved]);
        let moved = "wlan0 the default route; previously eth0";
        assert_eq!(step(wlan, wlan), [moved], "one event for both");
        assert_eq!(step(None, None), [""; 0], "the loss has another event");
        assert_eq!(step(wlan, wlan), [""; 0], "the same uplink");
    }
}
