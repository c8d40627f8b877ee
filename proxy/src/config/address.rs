//! Rules for addresses: to bind, to connect to, to connect from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::fault::Fault;
use super::suggest::quoted;

/// Why a text is not the address of a target.
#[derive(Debug)]
pub(super) enum TargetFault {
    /// It is a host name with a port.
    DnsName(String, u16),
    /// It is wrong.
    Wrong(Fault),
}

/// An address to accept connections on.
pub(super) fn bind(text: &str) -> Result<SocketAddr, Fault> {
    match text.strip_prefix("*:").or_else(|| text.strip_prefix(':')) {
        Some(port) if port.parse::<u16>().is_ok_and(|port| port > 0) => {
            return Err(Fault::new(
                format!("{} has no IP address", quoted(text)),
                format!("write \"0.0.0.0:{port}\" for every IPv4 address or \"[::]:{port}\" for every IPv6 address"),
            ));
        }
        _ => {}
    }
    match socket(text, PORT) {
        Ok(address) => usable(address.ip(), text, true).map(|()| address),
        Err(TargetFault::Wrong(fault)) => Err(fault),
        Err(TargetFault::DnsName(..)) => Err(Fault::new(
            format!("{} is a host name", quoted(text)),
            format!("bind to an IP address, such as {BIND}"),
        )),
    }
}

/// An address to connect to.
pub(super) fn target(text: &str) -> Result<SocketAddr, TargetFault> {
    connectable(text, PORT)
}

fn connectable(text: &str, usual_port: u16) -> Result<SocketAddr, TargetFault> {
    let address = socket(text, usual_port)?;
    usable(address.ip(), text, false).map(|()| address).map_err(TargetFault::Wrong)
}

/// The address of a DNS server.
pub(super) fn server(text: &str) -> Result<SocketAddr, Fault> {
    connectable(text, 53).map_err(|fault| match fault {
        TargetFault::Wrong(fault) => fault,
        TargetFault::DnsName(..) => Fault::new(
            format!("{} is itself a name", quoted(text)),
            "give the IP address and port of a DNS server, such as \"10.0.0.2:53\"",
        ),
    })
}

/// A local address to connect from.
pub(super) fn source(text: &str) -> Result<IpAddr, Fault> {
    let remedy = "give an IP address of this machine without port, such as \"100.92.0.10\" or \"fd00::10\"";
    let ip = text.parse().map_err(|_| Fault::new(format!("{} is not an IP address", quoted(text)), remedy))?;
    usable(ip, text, false).map(|()| ip)
}

const BIND: &str = "\"0.0.0.0:8000\" or \"[::]:8000\"";

/// The port of examples.
const PORT: u16 = 8000;

/// Reads an address and says precisely what is wrong with it.
fn socket(text: &str, usual_port: u16) -> Result<SocketAddr, TargetFault> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return checked(address, text).map_err(TargetFault::Wrong);
    }
    let wrong =
        |what: &str, remedy: String| Err(TargetFault::Wrong(Fault::new(format!("{} {what}", quoted(text)), remedy)));
    if text.parse::<Ipv4Addr>().is_ok() {
        return wrong("has no port", format!("write \"{text}:{usual_port}\""));
    }
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        // "::1:8000" is an IPv6 address as a whole; more likely its last part is meant as a port.
        let remedy = match text.rsplit_once(':') {
            Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => format!("write \"[{host}]:{port}\""),
            _ => format!("write \"[{ip}]:{usual_port}\""),
        };
        return wrong("has an IPv6 address without brackets", remedy);
    }
    if text.starts_with("unix:") || text.starts_with('/') {
        return wrong("is a Unix socket", "landbridge proxies TCP: write IP address and port".to_owned());
    }
    if text.contains("://") {
        return wrong("is a URL", "write address and port only, such as \"10.0.0.1:8000\"".to_owned());
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        if let Some(ip) = bracketed(text) {
            return wrong("has no port", format!("write \"[{ip}]:{usual_port}\""));
        }
        if is_host_name(text) {
            return wrong("has no port", format!("write \"{text}:{usual_port}\""));
        }
        return wrong("is not an address", example(usual_port));
    };
    let port_is_good = port.parse::<u16>().is_ok_and(|port| port > 0);
    if let Ok(ip) = host.parse::<Ipv6Addr>() {
        return wrong("has an IPv6 address without brackets", format!("write \"[{ip}]:{usual_port}\""));
    }
    if bracketed(text).is_some() {
        return wrong("has no port", format!("write \"{text}:{usual_port}\""));
    }
    let host_is_good = host.parse::<Ipv4Addr>().is_ok() || bracketed(host).is_some() || is_host_name(host);
    match (host_is_good, port_is_good) {
        (true, false) if port.is_empty() => wrong("has no port", example(usual_port)),
        (true, false) if is_range(port) => wrong("has a range of ports", "write one address for each port".to_owned()),
        (true, false) => wrong("has no valid port", "use a port from 1 to 65535".to_owned()),
        (true, true) if is_host_name(host) => {
            Err(TargetFault::DnsName(host.to_owned(), port.parse().unwrap_or_default()))
        }
        _ => wrong("is not an address", example(usual_port)),
    }
}

fn example(port: u16) -> String {
    format!("write IP address and port, such as \"10.0.0.1:{port}\" or \"[fd00::1]:{port}\"")
}

/// Whether it is two ports with a hyphen in between.
fn is_range(ports: &str) -> bool {
    ports.split_once('-').is_some_and(|(first, last)| first.parse::<u16>().is_ok() && last.parse::<u16>().is_ok())
}

fn checked(address: SocketAddr, text: &str) -> Result<SocketAddr, Fault> {
    match address {
        _ if address.port() == 0 => {
            Err(Fault::new(format!("{} has port 0", quoted(text)), "use a port from 1 to 65535"))
        }
        SocketAddr::V6(v6) if v6.scope_id() != 0 => Err(Fault::new(
            format!("{} has a zone", quoted(text)),
            "leave out the % part and name the device in tcp.interface",
        )),
        _ => Ok(address),
    }
}

/// Whether a socket can be bound to the address, or connected to it.
fn usable(ip: IpAddr, text: &str, wildcard_is_good: bool) -> Result<(), Fault> {
    let fault = |what: &str, remedy: String| Err(Fault::new(format!("{} {what}", quoted(text)), remedy));
    if let IpAddr::V6(v6) = ip
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        let port = text.parse::<SocketAddr>().map(|address| format!(":{}", address.port())).unwrap_or_default();
        return fault("is an IPv4 address in IPv6 form", format!("write \"{v4}{port}\""));
    }
    if ip.is_unspecified() && !wildcard_is_good {
        return fault("stands for every address", "give one address".to_owned());
    }
    if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return fault("is a multicast or broadcast address", "TCP needs the address of one machine".to_owned());
    }
    Ok(())
}

fn bracketed(text: &str) -> Option<Ipv6Addr> {
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// Whether a text could be a DNS name (RFC 1123, section 2.1: the last label is not all digits).
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(fits) && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses() {
        for text in ["0.0.0.0:8000", "[::]:8000", "127.0.0.1:1", "[fd00::1]:65535", "[fe80::1]:80"] {
            assert_eq!(bind(text).unwrap().to_string(), text);
        }
        assert_eq!(target("[2001:db8::1]:443").unwrap(), "[2001:db8::1]:443".parse().unwrap());
        assert_eq!(source("fd00::10").unwrap(), "fd00::10".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn bad_binds_say_what_is_wrong() {
        for (text, what, remedy) in [
            ("", "is not an address", "10.0.0.1:8000"),
            (":8000", "has no IP address", "\"0.0.0.0:8000\""),
            ("*:8000", "has no IP address", "\"[::]:8000\""),
            ("*:0", "is not an address", "10.0.0.1:8000"),
            ("10.0.0.1", "has no port", "\"10.0.0.1:8000\""),
            ("10.0.0.1:", "has no port", "10.0.0.1:8000"),
            ("10.0.0.1:0", "has port 0", "from 1 to 65535"),
            ("10.0.0.1:65536", "no valid port", "from 1 to 65535"),
            ("10.0.0.1:http", "no valid port", "from 1 to 65535"),
            ("10.0.0.256:80", "is not an address", "10.0.0.1:8000"),
            ("10.0.0.1 :80", "is not an address", "10.0.0.1:8000"),
            ("::1", "without brackets", "\"[::1]:8000\""),
            ("::1:8000", "without brackets", "\"[::1]:8000\""),
            ("fd00::1:65000", "without brackets", "\"[fd00::1]:8000\""),
            ("[::1]", "has no port", "\"[::1]:8000\""),
            ("[::1]:0", "has port 0", "from 1 to 65535"),
            ("[::1]:99999", "no valid port", "from 1 to 65535"),
            ("[fe80::1%2]:80", "has a zone", "tcp.interface"),
            ("[::ffff:10.0.0.1]:80", "IPv4 address in IPv6 form", "\"10.0.0.1:80\""),
            ("localhost:8000", "is a host name", "bind to an IP address"),
            ("localhost", "has no port", "\"localhost:8000\""),
            ("10.0.0.1:8000-8010", "a range of ports", "one address for each port"),
            ("unix:/run/x.sock", "Unix socket", "TCP"),
            ("/run/x.sock", "Unix socket", "TCP"),
            ("http://10.0.0.1:80", "is a URL", "address and port only"),
            ("224.0.0.1:80", "multicast", "one machine"),
            ("255.255.255.255:80", "broadcast", "one machine"),
        ] {
            let fault = bind(text).unwrap_err();
            assert!(fault.what.contains(what), "{text}: {fault:?}");
            assert!(fault.remedy.contains(remedy), "{text}: {fault:?}");
        }
    }

    #[test]
    fn servers_have_the_port_of_dns() {
        for (text, remedy) in [("10.0.0.2", "\"10.0.0.2:53\""), ("fd00::2", "\"[fd00::2]:53\""), ("", "10.0.0.1:53")] {
            let fault = server(text).unwrap_err();
            assert!(fault.remedy.contains(remedy), "{text}: {fault:?}");
        }
    }

    #[test]
    fn targets_are_one_machine() {
        for text in ["0.0.0.0:80", "[::]:80", "[ff02::1]:80"] {
            assert!(matches!(target(text), Err(TargetFault::Wrong(_))), "{text}");
        }
        for text in ["gpu-1:8000", "gpu-1.netbird.cloud:8000", "a_b.example.:1"] {
            assert!(matches!(target(text), Err(TargetFault::DnsName(..))), "{text}");
        }
        for text in ["0.0.0.0", "::", "10.0.0.1:0", "[::1]", "wt0", "239.1.1.1"] {
            assert!(source(text).is_err(), "{text}");
        }
    }
}
