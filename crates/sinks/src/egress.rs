//! The policy of addresses that sinks may connect to, and the only code that connects.
//!
//! Tenants choose destinations, so a destination must never lead to addresses that only the operator's own machines
//! can reach. The policy is applied to the address that is dialled, after name resolution and again for each
//! connection, because a name can resolve to another address the next time.

mod address;
mod budget;
mod connector;
mod destination;
mod network_stack;

use std::net::IpAddr;

use ipnet::IpNet;

pub use budget::ConnectionLimits;
pub(crate) use budget::{AccountBudget, ConnectionPermit, EgressBudget};
pub(crate) use connector::{Connector, DialError, SystemRoots, resolve};
pub(crate) use destination::parse_url;
pub(crate) use network_stack::SystemNetwork;
pub use network_stack::{NetworkStack, Socket};

/// The addresses that sinks may connect to: public ones, and those that the operator adds.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    /// Networks allowed although they are not public. Cloud metadata services stay forbidden.
    pub allow_cidrs: Vec<IpNet>,
    /// Plain `http` destinations are refused unless this is set.
    pub allow_http: bool,
    /// This machine itself, for development.
    pub allow_loopback: bool,
    /// Kinesis sinks without a role write with this node's own credentials. Every tenant that may create a sink can
    /// then write to every stream that the node can.
    pub allow_node_credentials: bool,
}

impl EgressPolicy {
    /// True if `address` may be dialled. An IPv6 address that carries an IPv4 address is judged as the latter.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        let address = address::effective(address);
        if address::is_metadata_service(address) {
            return false;
        }
        address::is_public(address)
            || (self.allow_loopback && address.is_loopback())
            || self.allow_cidrs.iter().any(|network| network.contains(&address))
    }

    /// True for the public web's ports and for unprivileged ones. Other ports below 1024 serve protocols such as mail
    /// and shells that a forged request could drive.
    pub(crate) fn allows_port(&self, port: u16) -> bool {
        port == 443 || port >= 1024 || (port == 80 && self.allow_http)
    }
}

#[cfg(test)]
mod tests;
