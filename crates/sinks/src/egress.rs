//! Which addresses a sink may connect to, and the only code that connects.
//!
//! Tenants choose destinations, so a destination must never reach what only the operator's own machines can
//! reach. The decision is taken on the address that is dialled, after name resolution and again for each
//! connection, because a name can resolve to something else the next time.

mod address;
mod connector;
mod destination;

use std::net::IpAddr;

use ipnet::IpNet;

pub(crate) use connector::{Connector, DialError, resolve};
pub(crate) use destination::parse_url;

/// Where sinks may connect to: public addresses, and what the operator adds.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    /// Networks allowed although they are not public. Cloud metadata services stay forbidden.
    pub allow_cidrs: Vec<IpNet>,
    /// Plain `http` destinations are refused unless this is set.
    pub allow_http: bool,
    /// This machine itself, for development.
    pub allow_loopback: bool,
    /// Kinesis sinks without a role write with this node's own credentials. Whoever may create a sink can then
    /// write to every stream that the node can.
    pub allow_node_credentials: bool,
}

impl EgressPolicy {
    /// Whether `address` may be dialled. An IPv6 address that stands for an IPv4 one is judged as that one.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        let address = address::effective(address);
        if address::is_metadata_service(address) {
            return false;
        }
        address::is_public(address)
            || (self.allow_loopback && address.is_loopback())
            || self.allow_cidrs.iter().any(|network| network.contains(&address))
    }

    /// The public web's ports, and those that any user may listen on. Below are services such as mail and shells
    /// that could be made to misread a request.
    pub(crate) fn allows_port(&self, port: u16) -> bool {
        port == 443 || port >= 1024 || (port == 80 && self.allow_http)
    }
}

#[cfg(test)]
mod tests;
