//! `WireGuard` in user space: by `wg-quick`, or with routing that is given.

use std::process::{self, Command};

use tempfile::TempDir;
use voicelane::lab::unique_number;

use super::super::addresses as at;
use super::super::namespace::{Namespace, run};
use super::{Vpn, write};

/// The routing of another program over a tunnel. `%i` stands for the tunnel's interface.
pub struct Routing {
    /// The mark of the tunnel's own packets.
    pub mark: u32,
    /// The lines of an `ip -batch` for each family: `%a` stands for "every address" of it, `%l` for the home network.
    pub up: &'static str,
    /// The lines that remove the rules. The routes vanish with the interface.
    pub down: &'static str,
    /// The firewall in the syntax of nft(8).
    pub firewall: &'static str,
    /// The nftables table of the firewall.
    pub table: Option<&'static str>,
}

/// The names and key pairs of both ends. The names differ, because all namespaces share the directory of wireguard-go's
/// control sockets.
struct Ends {
    names: [String; 2],
    keys: [(String, String); 2],
}

fn ends() -> Ends {
    let names = [(); 2].map(|()| format!("wg{}c{}", process::id(), unique_number()));
    let keys = [(); 2].map(|()| {
        let private = run(Command::new("wg").arg("genkey"), "");
        let public = run(Command::new("wg").arg("pubkey"), &private);
        (private.trim().to_owned(), public.trim().to_owned())
    });
    Ends { names, keys }
}

/// The gateway's configuration for wg-quick.
fn server(ends: &Ends) -> String {
    let [(private, _), (_, client)] = &ends.keys;
    let (inner4, inner6) = (at::VPN_LAPTOP.v4, at::VPN_LAPTOP.v6);
    format!(
        "[Interface]\nPrivateKey = {private}\nListenPort = 51820\n\
         Address = {}/24, {}/64\n\
         [Peer]\nPublicKey = {client}\nAllowedIPs = {inner4}/32, {inner6}/128\n",
        at::VPN_GATEWAY.v4,
        at::VPN_GATEWAY.v6,
    )
}

/// Returns the laptop's peer section for the gateway.
fn peer(ends: &Ends) -> String {
    let [(_, server), _] = &ends.keys;
    format!(
        "[Peer]\nPublicKey = {server}\nEndpoint = {}:51820\n\
         AllowedIPs = 0.0.0.0/0, ::/0\nPersistentKeepalive = 25\n",
        at::VPN_SERVER.v4
    )
}

/// The kill switch of wg-quick(8), for both families.
pub fn kill_switch() -> String {
    let rule = |program, verb| {
        format!(
            "{program} {verb} OUTPUT ! -o %i -m mark ! --mark $(wg show %i fwmark) \
             -m addrtype ! --dst-type LOCAL -j REJECT"
        )
    };
    let both = |verb| format!("{} && {}", rule("iptables", verb), rule("ip6tables", verb));
    format!("PostUp = {}\nPreDown = {}\n", both("-I"), both("-D"))
}

/// Starts both ends with `wg-quick`. The laptop's interface gets the lines `more`.
pub fn quick(files: TempDir, laptop: &Namespace, gateway: &Namespace, more: &str) -> Vpn {
    let ends = ends();
    let (inner4, inner6) = (at::VPN_LAPTOP.v4, at::VPN_LAPTOP.v6);
    let private = &ends.keys[1].0;
    let client = format!(
        "[Interface]\nPrivateKey = {private}\nAddress = {inner4}/32, {inner6}/128\n{more}{}",
        peer(&ends)
    );
    let configs = [server(&ends), client];
    let paths = [0, 1].map(|end| {
        let name = format!("{}.conf", ends.names[end]);
        write(&files, &name, &configs[end])
    });
    for (namespace, path) in [gateway, laptop].into_iter().zip(&paths) {
        namespace.run(&format!("wg-quick up {path}"));
    }
    let [on_gateway, on_laptop] = paths.map(|path| vec![format!("wg-quick down {path}")]);
    let [gateway_interface, interface] = ends.names;
    Vpn {
        interface,
        gateway_interface,
        programs: Vec::new(),
        down: [on_laptop, on_gateway],
        _files: files,
    }
}

/// Starts the gateway with `wg-quick`, and the laptop with the routing of another program.
pub fn routed(files: TempDir, laptop: &Namespace, gateway: &Namespace, routing: &Routing) -> Vpn {
    let ends = ends();
    let on_gateway = write(&files, &format!("{}.conf", ends.names[0]), &server(&ends));
    gateway.run(&format!("wg-quick up {on_gateway}"));

    let (name, private) = (&ends.names[1], &ends.keys[1].0);
    let mark = routing.mark;
    let config = format!(
        "[Interface]\nPrivateKey = {private}\nFwMark = {mark:#x}\n{}",
        peer(&ends)
    );
    let config = write(&files, "laptop.conf", &config);
    laptop.run(&format!("wireguard-go {name}"));
    laptop.run(&format!("wg setconf {name} {config}"));
    let (inner4, inner6) = (at::VPN_LAPTOP.v4, at::VPN_LAPTOP.v6);
    laptop.ip(&format!(
        "addr add {inner4}/32 dev {name}\naddr add {inner6}/128 dev {name} nodad\n\
         link set {name} mtu 1420 up\nroute add {}/32 dev {name}\nroute add {}/128 dev {name}",
        at::VPN_GATEWAY.v4,
        at::VPN_GATEWAY.v6
    ));
    laptop.set("ipv4/conf/all/src_valid_mark", "1");
    laptop.nft(&routing.firewall.replace("%i", name));
    let lines = |text: &str| {
        let families = [
            ("-4", "0.0.0.0/0", "192.168.7.0/24"),
            ("-6", "::/0", "2001:db8:7::/64"),
        ];
        let lines = families.map(|(family, every, home)| {
            let lines = text.lines().map(|line| {
                let line = line.trim().replace("%i", name).replace("%a", every);
                format!("ip {family} {}", line.replace("%l", home))
            });
            lines.collect::<Vec<_>>()
        });
        lines.concat()
    };
    for line in lines(routing.up) {
        laptop.run(&line);
    }
    let mut down = lines(routing.down);
    down.push(format!("ip link del {name}"));
    down.push("sysctl -qw net.ipv4.conf.all.src_valid_mark=0".to_owned());
    down.extend(
        routing
            .table
            .map(|table| format!("nft delete table {table}")),
    );
    let [gateway_interface, interface] = ends.names;
    Vpn {
        interface,
        gateway_interface,
        programs: Vec::new(),
        down: [down, vec![format!("wg-quick down {on_gateway}")]],
        _files: files,
    }
}
