//! The kinds of addresses: pure tables.
//!
//! The standard library's `is_private` and `is_loopback` are not used to decide: they miss shared address space,
//! translated and mapped forms. Registries: <https://www.iana.org/assignments/iana-ipv4-special-registry>,
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network of addresses that begin with the same `prefix` bits.
#[derive(Clone, Copy)]
struct NetworkV4 {
    bits: u32,
    prefix: u32,
}

#[derive(Clone, Copy)]
struct NetworkV6 {
    bits: u128,
    prefix: u32,
}

impl NetworkV4 {
    fn contains(self, address: u32) -> bool {
        (address ^ self.bits).checked_shr(32 - self.prefix).unwrap_or(0) == 0
    }
}

impl NetworkV6 {
    fn contains(self, address: u128) -> bool {
        (address ^ self.bits).checked_shr(128 - self.prefix).unwrap_or(0) == 0
    }
}

const fn v4(a: u8, b: u8, c: u8, prefix: u32) -> NetworkV4 {
    NetworkV4 { bits: Ipv4Addr::new(a, b, c, 0).to_bits(), prefix }
}

const fn v6(a: u16, b: u16, c: u16, prefix: u32) -> NetworkV6 {
    NetworkV6 { bits: Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).to_bits(), prefix }
}

const NOT_PUBLIC_V4: [NetworkV4; 14] = [
    v4(0, 0, 0, 8),
    v4(10, 0, 0, 8),
    v4(100, 64, 0, 10),
    v4(127, 0, 0, 8),
    v4(169, 254, 0, 16),
    v4(172, 16, 0, 12),
    v4(192, 0, 0, 24),
    v4(192, 0, 2, 24),
    v4(192, 88, 99, 24),
    v4(192, 168, 0, 16),
    v4(198, 18, 0, 15),
    v4(198, 51, 100, 24),
    v4(203, 0, 113, 24),
    v4(224, 0, 0, 3),
];

/// All public IPv6 unicast addresses are in here, and in none of the networks below.
const GLOBAL_V6: NetworkV6 = v6(0x2000, 0, 0, 3);

const NOT_PUBLIC_V6: [NetworkV6; 4] =
    [v6(0x2001, 0, 0, 23), v6(0x2001, 0xdb8, 0, 32), v6(0x2002, 0, 0, 16), v6(0x3fff, 0, 0, 20)];

/// Networks whose addresses end in an IPv4 address, to which a translating router forwards.
const MAPPED: NetworkV6 = NetworkV6 { bits: 0xffff_u128 << 32, prefix: 96 };
const COMPATIBLE: NetworkV6 = NetworkV6 { bits: 0, prefix: 96 };
const TRANSLATED: NetworkV6 = v6(0x64, 0xff9b, 0, 96);
const TRANSLATED_LOCALLY: NetworkV6 = v6(0x64, 0xff9b, 1, 48);
/// IPv4 right after the prefix.
const SIX_TO_FOUR: NetworkV6 = v6(0x2002, 0, 0, 16);

/// The address that packets to `address` may reach: `address` itself, or the IPv4 address within.
pub(super) fn effective(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    let bits = six.to_bits();
    if MAPPED.contains(bits) || TRANSLATED.contains(bits) {
        return IpAddr::V4(low_v4(bits));
    }
    address
}

pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => !NOT_PUBLIC_V4.iter().any(|network| network.contains(four.to_bits())),
        IpAddr::V6(six) => {
            let bits = six.to_bits();
            GLOBAL_V6.contains(bits) && !NOT_PUBLIC_V6.iter().any(|network| network.contains(bits))
        }
    }
}

/// True for services that give credentials to every client that can connect. No allow-list opens them, in any form.
pub(super) fn is_metadata_service(address: IpAddr) -> bool {
    const FOUR: [Ipv4Addr; 8] = [
        Ipv4Addr::new(169, 254, 169, 254),
        Ipv4Addr::new(169, 254, 170, 2),
        Ipv4Addr::new(169, 254, 170, 23),
        Ipv4Addr::new(168, 63, 129, 16),
        Ipv4Addr::new(100, 100, 100, 200),
        Ipv4Addr::new(169, 254, 0, 23),
        Ipv4Addr::new(169, 254, 42, 42),
        Ipv4Addr::new(192, 0, 0, 192),
    ];
    const SIX: [Ipv6Addr; 5] = [
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
        Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    ];
    match address {
        IpAddr::V4(four) => FOUR.contains(&four),
        IpAddr::V6(six) => {
            SIX.contains(&six) || carried_v4(six.to_bits()).is_some_and(|four| FOUR.contains(&four))
        }
    }
}

fn carried_v4(bits: u128) -> Option<Ipv4Addr> {
    if [MAPPED, COMPATIBLE, TRANSLATED, TRANSLATED_LOCALLY].iter().any(|network| network.contains(bits)) {
        return Some(low_v4(bits));
    }
    SIX_TO_FOUR.contains(bits).then(|| low_v4(bits >> 80))
}

#[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are the address")]
fn low_v4(bits: u128) -> Ipv4Addr {
    Ipv4Addr::from_bits(bits as u32)
}
