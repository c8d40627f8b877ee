//! The addresses that the daemon itself listens on: no two may claim the same.

use std::net::SocketAddr;

use super::notes::{Noted, Place};

/// The addresses claimed so far.
#[derive(Debug, Default)]
pub(super) struct Binds {
    claims: Vec<Claim>,
}

#[derive(Debug)]
struct Claim {
    address: SocketAddr,
    /// Where, in words.
    holder: String,
}

impl Binds {
    /// Claims an address for an option of the file.
    pub(super) fn claim(&mut self, address: SocketAddr, place: &Place<'_>) -> Result<SocketAddr, Noted> {
        let clash = self.claims.iter().find(|claim| overlap(claim.address, address)).map(|claim| {
            let what = match claim.address == address {
                true => format!("{address} is already taken by {}", claim.holder),
                false => format!("{address} overlaps {} of {}", claim.address, claim.holder),
            };
            place.wrong(what, "use another address or port, or remove one of the two")
        });
        self.claims.push(Claim { address, holder: format!("{} (line {})", place.path(), place.line()) });
        clash.map_or(Ok(address), Err)
    }

    /// Claims the default address of an option that the file does not have.
    pub(super) fn claim_default(&mut self, address: SocketAddr, path: &str) {
        self.claims.push(Claim { address, holder: format!("{path} (its default)") });
    }
}

/// Whether a socket bound to one address takes connections of the other. Sockets of IPv6 take no IPv4.
pub fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let one_is_wildcard = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (a.ip() == b.ip() || one_is_wildcard)
}
