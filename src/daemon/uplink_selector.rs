//! The pilot: by which link each family's media leaves now, and what a change of it means for the driver and for people.
//!
//! Each family goes its own way: it has uplinks of its own, holds on to one by itself ([`crate::route::hysteresis`]), and is lost
//! by itself. They mostly go together, and then they are spoken of together.

use std::time::Instant;

use crate::control::EventKind;
use crate::net::{Family, Fwmark, PerFamily};
use crate::relay::SocketSetupError;
use crate::route::desired::Uplink;
use crate::route::hysteresis::Hysteresis;
use crate::route::observed::Observed;
use crate::route::uplink::UplinkError;

use super::driver::Message;
use super::uplink_binding::{Moves, UplinkBinding, UplinkBindings, names};

/// The ways, and what is remembered of them.
#[derive(Debug, Default)]
pub(super) struct UplinkSelector {
    /// The ways that are in force.
    ways: UplinkBindings,
    /// The ways that the driver was told last: it keeps the sockets of a family while there is none.
    told: UplinkBindings,
    holds: PerFamily<Hysteresis>,
    again: Option<Instant>,
    without_uplink: Option<UplinkError>,
    /// Why there is no uplink has changed.
    is_news: bool,
}

/// What a step means for others.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) events: Vec<Noted>,
    pub(super) messages: Vec<Message>,
}

/// An event to be recorded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) kind: EventKind,
    pub(super) subject: String,
    pub(super) reason: String,
}

impl UplinkSelector {
    /// The ways that are in force.
    pub(super) const fn ways(&self) -> &UplinkBindings {
        &self.ways
    }

    /// When a better uplink will have proven itself.
    pub(super) const fn again(&self) -> Option<Instant> {
        self.again
    }

    /// Why there is no uplink, if there is none.
    pub(super) const fn without_uplink(&self) -> Option<&UplinkError> {
        self.without_uplink.as_ref()
    }

    /// Picks each family's way among the usable uplinks; `marks` are those of sockets.
    pub(super) fn pick(
        &mut self,
        ranked: Result<PerFamily<Vec<Uplink>>, UplinkError>,
        observed: &Observed,
        marks: (Fwmark, Fwmark),
        now: Instant,
    ) -> UplinkBindings {
        let without_uplink = ranked.as_ref().err().cloned();
        self.is_news = self.without_uplink != without_uplink;
        self.without_uplink = without_uplink;
        self.again = None;
        let mut ranked = ranked.unwrap_or_default();
        PerFamily::new(|family| {
            let ranked = std::mem::take(&mut ranked[family]);
            let (uplink, again) = self.holds[family].select(ranked, now);
            self.again = self.again.into_iter().chain(again).min();
            Some(UplinkBinding::new(family, uplink?, observed, marks))
        })
    }

    /// Takes these ways, once a socket was opened on each that is new.
    ///
    /// # Errors
    /// [`SocketSetupError`]; the former ways stay.
    pub(super) fn follow(&mut self, ways: UplinkBindings) -> Result<News, SocketSetupError> {
        let mut news = News::default();
        if let (true, Some(error)) = (self.is_news, &self.without_uplink) {
            let lost = names(&self.ways);
            news.events.push(Noted {
                kind: match lost {
                    Some(_) => EventKind::UplinkLost,
                    None => EventKind::UplinkMissing,
                },
                subject: lost.unwrap_or_else(|| "uplink".to_owned()),
                reason: format!("media stays in the VPN: {error}"),
            });
        }
        if ways == self.ways {
            return Ok(news);
        }
        let (mut moves, mut told) = (Moves::default(), self.told.clone());
        for (family, way) in ways.present() {
            let former = self.told[family].as_ref();
            if former != Some(way) {
                way.open()?;
                moves[family] = former.is_none_or(|former| way.moves_since(former));
                told[family] = Some(way.clone());
            }
        }
        news.events.extend(self.changes(&ways));
        if told != self.told {
            let binders = PerFamily::new(|family| Some(told[family].as_ref()?.binder.clone()));
            news.messages.push(Message::Uplinks(binders, moves));
            self.told = told;
        }
        let back = ways.present().map(|(family, _)| family);
        let back = back.filter(|family| self.ways[*family].is_none() && !moves[*family]);
        news.messages.extend(back.map(Message::UplinkIsBack));
        self.ways = ways;
        Ok(news)
    }

    /// What is to be told of other ways: each link once where the families go together.
    fn changes(&self, ways: &UplinkBindings) -> Vec<Noted> {
        let mut changes = Vec::<(&str, String, Vec<Family>)>::new();
        let with_a_way = ways.present().count();
        for (family, way) in ways.iter() {
            let (link, reason) = match (way, &self.ways[family]) {
                (Some(way), _) if self.told[family].as_ref() != Some(way) => {
                    (&way.uplink.name, self.why(family, way))
                }
                // When none is left, that is told as the loss that it is.
                (None, Some(former)) if with_a_way > 0 => {
                    let reason = "no uplink any more; its media stays in the VPN".to_owned();
                    (&former.uplink.name, reason)
                }
                _ => continue,
            };
            let mut others = changes.iter_mut();
            match others.find(|it| it.0 == link && it.1 == reason) {
                Some((.., families)) => families.push(family),
                None => changes.push((link, reason, vec![family])),
            }
        }
        let noted = |(link, reason, families): (&str, String, Vec<Family>)| Noted {
            kind: EventKind::UplinkChanged,
            subject: link.to_owned(),
            reason: match families[..] {
                [family] if with_a_way > 1 || ways[family].is_none() => {
                    format!("{family}: {reason}")
                }
                _ => reason,
            },
        };
        changes.into_iter().map(noted).collect()
    }

    fn why(&self, family: Family, way: &UplinkBinding) -> String {
        let why = way.uplink.why;
        match &self.told[family] {
            Some(former) if former.uplink.name != way.uplink.name => {
                format!("{why}; previously {}", former.uplink.name)
            }
            _ => why.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::IfIndex;
    use crate::route::desired::{UplinkEvidence, UplinkGateway};

    fn ways(v4: Option<&str>, v6: Option<&str>) -> UplinkBindings {
        let way = |family, name: &str| {
            let uplink = Uplink {
                name: name.to_owned(),
                index: IfIndex(u32::try_from(name.len()).expect("a short name")),
                gateway: UplinkGateway::OnLink,
                why: UplinkEvidence::DefaultRoute,
            };
            UplinkBinding::new(family, uplink, &Observed::default(), (Fwmark(1), Fwmark(2)))
        };
        UplinkBindings {
            v4: v4.map(|name| way(Family::V4, name)),
            v6: v6.map(|name| way(Family::V6, name)),
        }
    }

    #[test]
    fn families_are_told_apart_where_they_part() {
        let mut pilot = UplinkSelector::default();
        let mut step = |v4, v6| {
            let ways = ways(v4, v6);
            let told = pilot.changes(&ways);
            for (family, way) in ways.present() {
                pilot.told[family] = Some(way.clone());
            }
            pilot.ways = ways;
            let told = told.into_iter();
            told.map(|it| format!("{} {}", it.subject, it.reason))
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
        assert_eq!(step(wlan, wlan), [moved], "they move together");
        assert_eq!(step(None, None), [""; 0], "it is a loss");
        assert_eq!(step(wlan, wlan), [""; 0], "it is the same again");
    }
}
