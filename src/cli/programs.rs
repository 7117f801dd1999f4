//! The programs of calls: from the inside endpoint to the socket's inode (`sock_diag`), and from there to the process.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::unistd::geteuid;

use crate::control::MappingStatus;
use crate::relay::SocketLookup;

/// The programs of some mappings, by id.
#[derive(Debug, Default)]
pub(super) struct Programs(BTreeMap<String, String>);

impl Programs {
    /// Finds the programs of these mappings.
    pub(super) fn of<'a>(mappings: impl Iterator<Item = &'a MappingStatus>) -> Self {
        let Ok(lookup) = SocketLookup::connect() else {
            return Self::default();
        };
        let mut inodes = BTreeMap::new();
        let mut programs = BTreeMap::new();
        for mapping in mappings {
            let Some(remote) = mapping.remote else {
                continue;
            };
            match lookup.inode(mapping.inside.into(), remote.into()) {
                Ok(Some(inode)) => {
                    inodes.insert(format!("socket:[{inode}]"), mapping.id.clone());
                    let unreadable = if geteuid().is_root() {
                        "not in this PID namespace"
                    } else {
                        "not measured: needs root"
                    };
                    programs.insert(mapping.id.clone(), unreadable.to_owned());
                }
                Ok(None) => {
                    programs.insert(mapping.id.clone(), "no socket here".to_owned());
                }
                Err(_) => {}
            }
        }
        if !inodes.is_empty() {
            find_owners(&inodes, &mut programs);
        }
        Self(programs)
    }

    /// Returns the program of a mapping, or the reason why it is unknown.
    pub(super) fn name(&self, mapping: &MappingStatus) -> String {
        let name = self.0.get(&mapping.id);
        name.map_or_else(|| "not measured".to_owned(), Clone::clone)
    }
}

/// Searches the descriptors of all readable processes.
fn find_owners(inodes: &BTreeMap<String, String>, programs: &mut BTreeMap<String, String>) {
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let descriptors = fs::read_dir(path.join("fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            let target = fs::read_link(descriptor.path());
            let target = target.as_deref().map(Path::to_string_lossy);
            if let Some(id) = target.ok().and_then(|target| inodes.get(&*target)) {
                let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
                // A process chooses its name, which must not control the terminal.
                let name: String = name.trim().chars().flat_map(char::escape_debug).collect();
                let number = process.file_name();
                let program = format!("{name} ({})", number.to_string_lossy());
                programs.insert(id.clone(), program);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_program_of_a_socket_is_found() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let mapping = MappingStatus {
            id: "1.0".to_owned(),
            is_call: true,
            remote: Some("192.0.2.1:9".parse().expect("an endpoint")),
            service: None,
            last_answer_seconds: None,
            inside: socket.local_addr().expect("bound"),
            outside: None,
            egress: "direct".into(),
            failover_cause: None,
            remotes: 1,
            age_seconds: 0,
            idle_seconds: 0,
        };
        let name = |mapping| Programs::of([mapping].into_iter()).name(mapping);
        let own = format!("({})", std::process::id());
        assert!(name(&mapping).ends_with(&own), "{}", name(&mapping));
        drop(socket);
        assert_eq!(name(&mapping), "no socket here");
    }
}
