//! Whether sessions of a listener to a target can be joined, as far as that can be told before there is one. Pure.
//!
//! What remains open until both legs stand: whether the client agrees on the same TCP options as the target.

use landbridge_core::join::{ALIKE, MICROSECONDS, headers};

use crate::config::Listener;

/// The way to a target, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The device that packets leave by; `None`: it is not known.
    pub device: Option<String>,
    /// The largest segment without options that fits, in bytes.
    pub segment: u32,
    /// Whether the target is this host.
    pub is_local: bool,
    /// Whether its address is IPv6.
    pub is_ipv6: bool,
    /// What it agrees on, as bits of `tcpi_options`; `None`: it did not answer.
    pub options: Option<u8>,
}

/// What there is for all sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    /// The names of the devices that the programs can be attached to, in order.
    pub devices: Vec<String>,
    /// Whether there are IPsec policies.
    pub has_policies: bool,
}

/// Why sessions will not be joined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Hindrance {
    /// The listener's datapath is another one.
    #[error("the listener's datapath does not join")]
    NotWanted,
    /// There are IPsec policies.
    #[error("there are IPsec policies (`ip xfrm policy`), which joined packets would not be held against")]
    Ipsec,
    /// All addresses of the listener are of the loopback device.
    #[error("the listener's clients are on this host, and their packets cross no device")]
    LocalClients,
    /// There is no way to the target.
    #[error("no route to the target: {0}")]
    NoRoute(String),
    /// The target is on this host.
    #[error("the target is on this host, and its packets cross no device")]
    LocalTarget,
    /// The programs cannot be attached to the device.
    #[error("the device {0} is down or of a kind that is not supported")]
    Device(String),
    /// The clock of the target leg's timestamps has another unit than the client leg's.
    #[error("the route to the target has timestamps in microseconds")]
    Clock,
}

impl Hindrance {
    /// What can be done about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotWanted => "datapath = \"auto\", unless that is meant",
            Self::Ipsec => "nothing, unless they are not meant: other datapaths move these sessions",
            Self::LocalClients | Self::LocalTarget => "nothing: other datapaths move these sessions",
            Self::NoRoute(_) => "look at `ip route get`, and whether the VPN is up and group.tcp is right",
            Self::Clock => "`ip route change` to the target without the feature tcp_usec_ts",
            Self::Device(_) => "`ip link set … up`; supported are Ethernet, VLAN, TUN and WireGuard",
        }
    }
}

/// Whether sessions of `listener` can be joined over `way`; what is known then, for people.
///
/// # Errors
/// The first reason why not.
pub fn prospect(listener: &Listener, way: Result<&Way, &std::io::Error>, ground: &Ground) -> Result<String, Hindrance> {
    if !listener.datapath.joins() {
        return Err(Hindrance::NotWanted);
    }
    if ground.has_policies {
        return Err(Hindrance::Ipsec);
    }
    if listener.bind.iter().all(|address| address.ip().to_canonical().is_loopback()) {
        return Err(Hindrance::LocalClients);
    }
    let way = way.map_err(|error| Hindrance::NoRoute(error.to_string()))?;
    if way.is_local {
        return Err(Hindrance::LocalTarget);
    }
    if way.options.is_some_and(|options| options & MICROSECONDS != 0) {
        return Err(Hindrance::Clock);
    }
    let by = match &way.device {
        Some(device) if !ground.devices.contains(device) => return Err(Hindrance::Device(device.clone())),
        Some(device) => format!(" by {device}"),
        None => String::new(),
    };
    let bytes = way.segment + headers(way.is_ipv6);
    Ok(format!("can be joined,{by} in packets of {bytes} bytes, {}", clients(way.options)))
}

/// Whose sessions can be joined with a target that agrees on these options.
fn clients(options: Option<u8>) -> String {
    let Some(options) = options else {
        return "if client and target agree on the same TCP options (the target does not answer now)".to_owned();
    };
    let names = |agreed: bool| {
        let of_them = ALIKE.iter().filter(|(bit, _)| (options & bit != 0) == agreed);
        of_them.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
    };
    match (names(true), names(false)) {
        (with, without) if without.is_empty() => format!("with clients that agree on {with}"),
        (with, without) if with.is_empty() => format!("with clients that agree on none of {without}"),
        (with, without) => format!("with clients that agree on {with} and not on {without}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;
    use crate::config;

    fn listener(bind: &[&str], datapath: &str) -> Listener {
        let listener = config::example(&format!("datapath = {datapath:?}"), "", "").listeners.remove(0);
        Listener { bind: bind.iter().map(|address| address.parse().unwrap()).collect(), ..listener }
    }

    #[test]
    fn every_reason_is_found_and_what_is_good_tells_the_device() {
        let ground = Ground { devices: vec!["wg0".to_owned()], has_policies: false };
        let way = Way {
            device: Some("wg0".to_owned()),
            segment: 1380,
            is_local: false,
            is_ipv6: false,
            options: Some(0b111),
        };
        let open = listener(&["0.0.0.0:8000"], "auto");
        let good = prospect(&open, Ok(&way), &ground).unwrap();
        let expected = "can be joined, by wg0 in packets of 1420 bytes, with clients that agree on timestamps, SACK, window \
                        scaling and not on ECN";
        assert_eq!(good, expected);
        for (options, said) in [
            (None, "(the target does not answer now)"),
            (Some(0), "agree on none of timestamps, SACK, window scaling, ECN"),
            (Some(0b1_1111), "agree on timestamps, SACK, window scaling, ECN"),
        ] {
            let found = prospect(&open, Ok(&Way { options, ..way.clone() }), &ground).unwrap();
            assert!(found.ends_with(said), "{found}");
        }
        let microseconds = Way { options: Some(0b100_0111), ..way.clone() };
        assert_eq!(prospect(&open, Ok(&microseconds), &ground), Err(Hindrance::Clock));
        let over_ipv6 = Way { is_ipv6: true, ..way.clone() };
        assert!(prospect(&open, Ok(&over_ipv6), &ground).unwrap().contains("1440 bytes"));

        let local = Way { is_local: true, ..way.clone() };
        let other = Way { device: Some("ib0".to_owned()), ..way.clone() };
        let lost = Error::from(ErrorKind::NetworkUnreachable);
        let loopback = listener(&["127.0.0.1:8000", "[::1]:8000"], "auto");
        assert_eq!(prospect(&loopback, Ok(&way), &ground), Err(Hindrance::LocalClients));
        assert_eq!(prospect(&listener(&["127.0.0.1:8000"], "splice"), Ok(&way), &ground), Err(Hindrance::NotWanted));
        let policies = Ground { has_policies: true, ..ground.clone() };
        assert_eq!(prospect(&open, Ok(&way), &policies), Err(Hindrance::Ipsec));
        assert_eq!(prospect(&open, Ok(&local), &ground), Err(Hindrance::LocalTarget));
        assert_eq!(prospect(&open, Ok(&other), &ground), Err(Hindrance::Device("ib0".to_owned())));
        assert!(matches!(prospect(&open, Err(&lost), &ground), Err(Hindrance::NoRoute(_))));
        // One address that others reach is enough.
        let mixed = listener(&["127.0.0.1:8000", "192.0.2.7:8000"], "packet");
        assert!(prospect(&mixed, Ok(&way), &ground).is_ok());
    }
}
