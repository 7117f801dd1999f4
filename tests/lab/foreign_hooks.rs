//! Other programs' hooks: rules that change mark or DSCP of outgoing packets, and reverse-path checks. Each makes the
//! kernel look up a route without ports.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::addresses as at;
use crate::support::caller::{ANSWER_TIME, Family, answer, probe, udp};
use crate::support::voicelane::Voicelane;
use crate::support::vpn::VpnKind;
use crate::support::{Lab, MEDIA_PORT, NOTHING, PathTaken};

/// Longer than the time after which rules that send no notification are found, in the absence of other changes.
const FOUND: Duration = Duration::from_secs(75);

/// Commands that add and remove a hook.
struct Hook {
    name: &'static str,
    add: Vec<String>,
    remove: Vec<String>,
}

fn iptables(name: &'static str, variant: &str, table: &str, rule: &str) -> Hook {
    let both =
        |verb| ["", "6"].map(|six| format!("ip{six}tables-{variant} -t {table} {verb} {rule}"));
    Hook {
        name,
        add: both("-A").to_vec(),
        remove: both("-D").to_vec(),
    }
}

fn nft(name: &'static str, chain: &str, rules: &[&str]) -> Hook {
    let mut add = vec![
        "nft add table inet office".to_owned(),
        format!("nft add chain inet office changes {{ {chain} }}"),
    ];
    add.extend(
        rules
            .iter()
            .map(|rule| format!("nft add rule inet office changes {rule}")),
    );
    Hook {
        name,
        add,
        remove: vec!["nft delete table inet office".to_owned()],
    }
}

/// Whether both families answer from the media host, each by the direct path and marked.
fn calls_are_direct(lab: &Lab) -> Result<(), String> {
    for family in Family::BOTH {
        let to = at::MEDIA.at(family, MEDIA_PORT);
        let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
        let payload = probe();
        let sent = socket.send_to(payload.as_bytes(), to);
        let answer = sent.and_then(|_| answer(&socket, &payload));
        if !matches!(answer, Ok(Some(from)) if from == to) {
            let frames = lab.on_laptop.carrying(&payload);
            return Err(format!("{to}: {answer:?} {frames:#?}"));
        }
        if lab.path_of(&payload) != PathTaken::Direct {
            return Err(format!("{to}: {:?}", lab.path_of(&payload)));
        }
        lab.assert_media(&payload, to, None);
    }
    Ok(())
}

fn await_direct_calls(lab: &Lab, hook: &str) {
    let deadline = Instant::now() + FOUND;
    while let Err(error) = calls_are_direct(lab) {
        let rules = || lab.laptop.run("nft list ruleset") + &lab.laptop.run("ip rule");
        assert!(Instant::now() < deadline, "{hook}: {error} {}", rules());
        sleep(Duration::from_millis(100));
    }
}

/// Adds each hook to a running voicelane, and starts voicelane after each hook. All else stays in the VPN.
fn calls_pass(hooks: &[Hook]) {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::OpenVpnDef1);
    let run = |lines: &[String]| {
        for line in lines {
            lab.laptop.run(line);
        }
    };
    for hook in hooks {
        run(&hook.add);
        let voicelane = Voicelane::start(&lab.laptop);
        await_direct_calls(&lab, hook.name);
        for family in Family::BOTH {
            for (host, port) in [(at::OTHER, MEDIA_PORT), (at::MEDIA, 9)] {
                let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
                let path = lab.path_from(&socket, host.at(family, port));
                assert_eq!(path, PathTaken::Tunnel, "{}: {family:?} {port}", hook.name);
            }
        }
        run(&hook.remove);
        sleep(ANSWER_TIME / 10);
        await_direct_calls(&lab, "none");
        run(&hook.add);
        await_direct_calls(&lab, hook.name);
        voicelane.stop();
        let left = lab.laptop.dump();
        assert_eq!(
            left.naming(&["voicelane", "proto 118"]),
            NOTHING,
            "{}",
            hook.name
        );
        run(&hook.remove);
    }
}

#[test]
fn calls_pass_hooks_that_change_mark_or_dscp() {
    let route = "type route hook output priority";
    calls_pass(&[
        iptables(
            "legacy DSCP",
            "legacy",
            "mangle",
            "OUTPUT -p udp --dport 10000:60000 -j DSCP --set-dscp 46",
        ),
        iptables(
            "whole mark",
            "nft",
            "mangle",
            "OUTPUT -p udp -j MARK --set-mark 1",
        ),
        iptables(
            "masked mark",
            "nft",
            "mangle",
            "OUTPUT -j MARK --set-xmark 0x1/0xff",
        ),
        nft(
            "late nft mark",
            &format!("{route} 500;"),
            &["meta l4proto udp meta mark set 7"],
        ),
        nft(
            "early nft DSCP",
            &format!("{route} -300;"),
            &[
                "udp dport 10000-60000 ip dscp set ef",
                "udp dport 10000-60000 ip6 dscp set ef",
            ],
        ),
    ]);
}

#[test]
fn calls_pass_reverse_path_checks_that_look_at_the_mark() {
    let check = "fib saddr . mark . iif oif missing drop";
    calls_pass(&[
        iptables(
            "rpfilter",
            "nft",
            "mangle",
            "PREROUTING -m rpfilter --validmark --invert -j DROP",
        ),
        iptables(
            "legacy rpfilter",
            "legacy",
            "raw",
            "PREROUTING -m rpfilter --validmark --invert -j DROP",
        ),
        // firewalld has its check in this place, for IPv6 alone.
        nft(
            "fib",
            "type filter hook prerouting priority 10;",
            &[
                "icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept",
                check,
            ],
        ),
    ]);
}

#[test]
fn no_probe_leaves_the_machine_whatever_rules_change_on_it() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::OpenVpnDef1);
    let both = |rule: &str| {
        for program in ["iptables", "ip6tables"] {
            lab.laptop.run(&format!("{program} -t mangle {rule}"));
        }
    };
    both("-A POSTROUTING -p udp -j CLASSIFY --set-class 1:10");
    both("-A POSTROUTING -p udp -j MARK --set-mark 9");
    both("-A OUTPUT -p udp -j DSCP --set-dscp 46");
    lab.laptop.nft(
        "add table inet office
         add chain inet office early { type filter hook output priority -400; }
         add rule inet office early meta l4proto { udp, ipv6-icmp } meta priority set 16",
    );
    // The router is the witness: it counts what comes from the laptop for media hosts.
    lab.home.nft(
        "add table inet witness
         add chain inet witness incoming { type filter hook prerouting priority -500; }
         add rule inet witness incoming iifname lan0 ip daddr 168.86.128.0/18 counter
         add rule inet witness incoming iifname lan0 ip6 daddr 2001:db8:86::/47 counter",
    );
    let seen = || {
        let table = lab.home.run("nft list table inet witness");
        let counts = table.split("counter packets ").skip(1);
        let counts = counts.map(|rest| rest.split(' ').next().expect("a number").to_owned());
        counts.collect::<Vec<_>>()
    };
    let voicelane = Voicelane::start(&lab.laptop);
    for number in 0..5 {
        // Each change leads to new probes.
        lab.laptop
            .nft(&format!("add chain inet office unused{number}"));
        sleep(ANSWER_TIME / 5);
    }
    assert_eq!(seen(), ["0", "0"], "probes left the machine");
    await_direct_calls(&lab, "the witness");
    assert!(seen().iter().all(|count| count != "0"), "{:?}", seen());
    voicelane.stop();
}
