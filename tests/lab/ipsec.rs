//! `IPsec` needs no interface: its policies take packets after routing. One that takes all and has no association to
//! put them into swallows them; media may not be among them.

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use crate::support::addresses as at;
use crate::support::call::Call;
use crate::support::caller::{Family, answer, probe, udp};
use crate::support::program::{PATIENCE, wait_until};
use crate::support::voicelane::{CONFIG, Home, Voicelane};
use crate::support::{Lab, MEDIA_PORT, NOTHING, PathTaken};
use voicelane::control::{Event, EventKind};

/// Policies for all traffic both ways, at the priorities that strongSwan gives them.
///
/// Neighbour discovery is let through, as strongSwan's manual has it: without it no IPv6 host speaks at all.
fn take_everything(lab: &Lab) {
    let all = |family: Family, direction, from, to| {
        let any = family.pick("0.0.0.0/0", "::/0");
        let priority = family.pick(199_999, 399_999);
        format!(
            "xfrm policy add src {any} dst {any} dir {direction} priority {priority} \
             tmpl src {from} dst {to} proto esp reqid 1 mode tunnel"
        )
    };
    let neighbours = |direction, kind| {
        format!(
            "xfrm policy add src ::/0 dst ::/0 proto ipv6-icmp type {kind} dir {direction} priority 100"
        )
    };
    let batch: Vec<_> = Family::BOTH
        .into_iter()
        .flat_map(|family| {
            let (here, there) = (at::LAPTOP.of(family), at::VPN_SERVER.of(family));
            [
                all(family, "out", here, there),
                all(family, "in", there, here),
            ]
        })
        .chain(
            ["out", "in"]
                .into_iter()
                .flat_map(|direction| [135, 136].map(|kind| neighbours(direction, kind))),
        )
        .collect();
    lab.laptop.ip(&batch.join("\n"));
}

/// Sends without waiting for an answer; a policy may already refuse the sending.
fn path_of(lab: &Lab, family: Family, to: SocketAddr) -> PathTaken {
    let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
    lab.path_from(&socket, to)
}

#[test]
fn an_ipsec_policy_for_everything_leaves_media_alone() {
    let lab = Lab::new();
    for family in Family::BOTH {
        assert_eq!(
            path_of(&lab, family, at::MEDIA.at(family, MEDIA_PORT)),
            PathTaken::Direct
        );
    }
    take_everything(&lab);
    for family in Family::BOTH {
        for host in [at::MEDIA, at::OTHER] {
            let path = path_of(&lab, family, host.at(family, MEDIA_PORT));
            assert_eq!(path, PathTaken::Neither, "the policy takes {family:?}");
        }
    }
    let before = lab.laptop.dump();
    let voicelane = Voicelane::start(&lab.laptop);
    assert_media_passes(&lab);
    for family in Family::BOTH {
        let path = path_of(&lab, family, at::OTHER.at(family, MEDIA_PORT));
        assert_eq!(path, PathTaken::Neither, "the rest stays with IPsec");
    }
    voicelane.stop();
    assert_eq!(lab.laptop.changes_since(&before), NOTHING);
}

/// The VPN comes later, goes and comes again, as charon installs and removes its policies.
#[test]
fn later_ipsec_policies_leave_media_alone() {
    let lab = Lab::new();
    let before = lab.laptop.dump();
    let voicelane = Voicelane::start(&lab.laptop);
    for _ in 0..2 {
        take_everything(&lab);
        // Outward and inward.
        for family in Family::BOTH {
            wait_until("an exemption", || is_answered(&lab, family));
        }
        assert_media_passes(&lab);
        lab.laptop.run("ip xfrm policy flush");
        for family in Family::BOTH {
            let to = at::OTHER.at(family, MEDIA_PORT);
            assert_eq!(
                path_of(&lab, family, to),
                PathTaken::Direct,
                "no VPN, no hold"
            );
        }
    }
    voicelane.stop();
    assert_eq!(lab.laptop.changes_since(&before), NOTHING);
}

/// Sockets are exempt only where there is something to be exempt from; those that are open follow when it comes.
#[test]
fn a_running_call_survives_new_ipsec_policies() {
    let lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    let calls =
        Family::BOTH.map(|family| Call::start(&lab, SocketAddr::new(family.unspecified(), 0)));
    let begun = Instant::now();
    for call in &calls {
        call.resumes_after(begun, PATIENCE, "the start");
    }
    let exempt = || lab.laptop.run("ip xfrm policy").matches("socket").count();
    assert_eq!(exempt(), 0, "nothing to be exempt from");
    take_everything(&lab);
    let came = Instant::now();
    for (call, family) in calls.iter().zip(Family::BOTH) {
        let took = call.resumes_after(came, PATIENCE, "policies came");
        println!("{family:?} passed {took:?} after the first policy");
    }
    wait_until("an exemption in and out", || exempt() == 2 * calls.len());
    let fell = |event: &Event| event.kind == EventKind::CallMovedToVpn;
    let events = voicelane.events();
    assert!(!events.iter().any(fell), "{events:?}");
    voicelane.stop();
}

/// Whether media is answered now.
fn is_answered(lab: &Lab, family: Family) -> bool {
    let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
    let payload = probe();
    let sent = socket.send_to(payload.as_bytes(), at::MEDIA.at(family, MEDIA_PORT));
    sent.is_ok() && matches!(answer(&socket, &payload), Ok(Some(_)))
}

fn assert_media_passes(lab: &Lab) {
    for family in Family::BOTH {
        for local in [family.unspecified(), at::LAPTOP.of(family)] {
            let to = at::MEDIA.at(family, MEDIA_PORT);
            let (_, payload) = lab.exchange(&udp(&lab.laptop, SocketAddr::new(local, 0)), to);
            lab.assert_media(&payload, to, None);
        }
    }
}

#[test]
fn returned_traffic_of_a_prefix_follows_the_ipsec_policy() {
    const NO_MEDIA: u16 = 9_999;
    let lab = Lab::new();
    let config = format!("{CONFIG}\n[route]\ncapture = \"prefix\"\n");
    let voicelane = Home::new(&lab.laptop, &config).start();
    for family in Family::BOTH {
        let path = path_of(&lab, family, at::MEDIA.at(family, NO_MEDIA));
        assert_eq!(path, PathTaken::Direct, "without a VPN it goes as it would");
    }
    take_everything(&lab);
    for family in Family::BOTH {
        let to = at::MEDIA.at(family, MEDIA_PORT);
        let unbound = SocketAddr::new(family.unspecified(), 0);
        let deadline = Instant::now() + PATIENCE;
        // The policies are seen, and media exempted from them, within moments.
        while path_of(&lab, family, to) != PathTaken::Direct {
            assert!(Instant::now() < deadline, "{}", voicelane.status());
        }
        let (_, payload) = lab.exchange(&udp(&lab.laptop, unbound), to);
        lab.assert_media(&payload, to, None);
        let path = path_of(&lab, family, at::MEDIA.at(family, NO_MEDIA));
        assert_eq!(
            path,
            PathTaken::Neither,
            "and then it is IPsec's: {family:?}"
        );
    }
    voicelane.stop();
}

/// What claims to be from the media range but did not come out of our TUN is IPsec's, as it would be without us: on IPv6
/// that is a matter of marks. So answers in the VPN pass as well, which have come through an association; this kernel
/// makes none, so it is the policies that are looked at.
#[test]
fn a_packet_on_the_uplink_is_no_answer_to_captured_media() {
    const PORT: u16 = 40_404;
    let lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    let sockets = Family::BOTH.map(|family| {
        let own = SocketAddr::new(at::LAPTOP.of(family), PORT);
        (family, udp(&lab.laptop, own))
    });
    // Through a NAT nobody is spoken to unasked: from the home router, in the media server's name.
    let arrives = |family: Family, socket: &UdpSocket| {
        let media = at::MEDIA.at(family, MEDIA_PORT);
        // Detection off or not, an address is not there at once unless nobody asks for any.
        lab.home.ip(&format!(
            "addr add {}/{} dev lo",
            media.ip(),
            family.pick("32", "128 nodad")
        ));
        let spoofer = udp(&lab.home, media);
        let payload = probe();
        let to = SocketAddr::new(at::LAPTOP.of(family), PORT);
        spoofer
            .send_to(payload.as_bytes(), to)
            .expect("there is a way");
        let arrived = answer(socket, &payload)
            .expect("the socket is open")
            .is_some();
        lab.home.ip(&format!(
            "addr del {}/{} dev lo",
            media.ip(),
            family.pick(32, 128)
        ));
        arrived
    };
    for (family, socket) in &sockets {
        assert!(
            arrives(*family, socket),
            "{family:?}: nobody forbids it yet"
        );
    }
    take_everything(&lab);
    let deadline = Instant::now() + PATIENCE;
    let ours = || {
        lab.laptop
            .run("ip xfrm policy")
            .contains("mark 0x76000000/0xff000000")
    };
    while !ours() {
        assert!(Instant::now() < deadline, "no exemption for IPv6");
    }
    assert_media_passes(&lab);
    for (family, socket) in &sockets {
        assert!(!arrives(*family, socket), "{family:?}: it is IPsec's");
    }
    voicelane.stop();
}
