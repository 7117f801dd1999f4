//! Socket options that no crate provides: the per-socket IPsec policy and path MTU discovery.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

use nix::libc;
use socket2::Socket;

use crate::net::Family;

/// `IP_XFRM_POLICY` (linux/in.h).
const IP_XFRM_POLICY: libc::c_int = 17;
/// `IPV6_XFRM_POLICY` (linux/in6.h).
const IPV6_XFRM_POLICY: libc::c_int = 35;
/// `XFRM_POLICY_IN` and `XFRM_POLICY_OUT` (linux/xfrm.h).
const DIRECTIONS: [u8; 2] = [0, 1];

/// `struct xfrm_userpolicy_info` (linux/xfrm.h). A policy "allow everything" sets two fields: the selector's family and the
/// direction. Action 0 is `XFRM_POLICY_ALLOW`; lifetimes of 0 seconds mean none.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct UserPolicyInfo {
    selector_addresses: [u64; 4],
    selector_ports: [u16; 4],
    selector_family: u16,
    selector_rest: [u8; 14],
    lifetimes: [u64; 12],
    priority: u32,
    index: u32,
    direction: u8,
    action: u8,
    flags: u8,
    share: u8,
}

const _: () = assert!(
    size_of::<UserPolicyInfo>() == 168,
    "the kernel's struct has 168 bytes"
);
const _: () = assert!(std::mem::offset_of!(UserPolicyInfo, selector_family) == 40);
const _: () = assert!(std::mem::offset_of!(UserPolicyInfo, direction) == 160);

/// Exempts the socket from every IPsec policy in both directions. A kernel without IPsec support counts as success.
pub(super) fn bypass_ipsec(socket: &Socket, family: Family) -> io::Result<()> {
    let (level, option, selector_family) = match family {
        Family::V4 => (libc::IPPROTO_IP, IP_XFRM_POLICY, libc::AF_INET),
        Family::V6 => (libc::IPPROTO_IPV6, IPV6_XFRM_POLICY, libc::AF_INET6),
    };
    let selector_family = u16::try_from(selector_family).expect("address families are small");
    for direction in DIRECTIONS {
        let policy = UserPolicyInfo {
            selector_family,
            direction,
            ..UserPolicyInfo::default()
        };
        match set(socket, level, option, policy) {
            Err(error) if is_unsupported(&error) => {}
            done => done?,
        }
    }
    Ok(())
}

/// Allows or forbids fragmentation of later datagrams (ip(7), ipv6(7)). Over IPv4 this also clears
/// or sets the DF bit.
pub(super) fn set_fragmentation(socket: &Socket, family: Family, may: bool) -> io::Result<()> {
    let (level, option, value) = match (family, may) {
        (Family::V4, true) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DONT,
        ),
        (Family::V4, false) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        ),
        (Family::V6, true) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        ),
        (Family::V6, false) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        ),
    };
    set(socket, level, option, value)
}

fn is_unsupported(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code.is_some_and(|code| [libc::ENOPROTOOPT, libc::EOPNOTSUPP].contains(&code))
}

fn set<T: Copy>(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: T,
) -> io::Result<()> {
    // SAFETY: the pointer and the length denote `value`, plain data that the kernel only reads during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            libc::socklen_t::try_from(size_of::<T>()).expect("options are small"),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
