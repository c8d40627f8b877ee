//! The configuration of a test, written as the TOML of its parts.

use std::fmt::{self, Display, Write};
use std::net::SocketAddr;
use std::path::Path;

/// The port of the only listener.
pub const LISTENER_PORT: u16 = 8000;

/// Where `/metrics` is served inside the proxy host.
pub(crate) const ADMIN: &str = "127.0.0.1:9900";

/// A configuration with one listener, named `main`.
#[derive(Debug, Clone)]
pub struct Config {
    runtime: String,
    dns: String,
    socket: String,
    datapath: String,
    tables: String,
    bind: Vec<String>,
    listener: String,
    listener_tcp: String,
    groups: Vec<Group>,
}

/// One group of a configuration.
#[derive(Debug, Clone)]
pub struct Group {
    name: String,
    keys: String,
    tcp: String,
    health: Option<String>,
    targets: Vec<String>,
}

impl Config {
    /// The listener and these groups, all else by default.
    pub fn new(groups: impl IntoIterator<Item = Group>) -> Self {
        Self {
            runtime: String::new(),
            dns: String::new(),
            socket: "off".to_owned(),
            datapath: String::new(),
            tables: String::new(),
            bind: vec![format!("0.0.0.0:{LISTENER_PORT}")],
            listener: String::new(),
            listener_tcp: String::new(),
            groups: groups.into_iter().collect(),
        }
    }

    /// One group, named `onprem`, with one target.
    pub fn single(target: SocketAddr) -> Self {
        Self::new([Group::new("onprem").target(target)])
    }

    /// The path of the control socket.
    pub fn socket(mut self, path: &Path) -> Self {
        self.socket = path.display().to_string();
        self
    }

    /// Adds a line to `[runtime]`.
    pub fn runtime(mut self, line: &str) -> Self {
        add(&mut self.runtime, line);
        self
    }

    /// Adds a line to `[datapath]`.
    pub fn datapath(mut self, line: &str) -> Self {
        add(&mut self.datapath, line);
        self
    }

    /// Adds a line to `[dns]`.
    pub fn dns(mut self, line: &str) -> Self {
        add(&mut self.dns, line);
        self
    }

    /// Adds a whole table, its header included.
    pub fn table(mut self, text: &str) -> Self {
        add(&mut self.tables, text);
        self
    }

    /// Listens on this address too.
    pub fn bind(mut self, address: &str) -> Self {
        self.bind.push(address.to_owned());
        self
    }

    /// Listens on these addresses instead.
    pub fn only_bind(mut self, addresses: &[&str]) -> Self {
        self.bind = addresses.iter().map(|address| (*address).to_owned()).collect();
        self
    }

    /// Adds a line to `[[listener]]`.
    pub fn listener(mut self, line: &str) -> Self {
        add(&mut self.listener, line);
        self
    }

    /// Adds a line to `[listener.tcp]`.
    pub fn listener_tcp(mut self, line: &str) -> Self {
        add(&mut self.listener_tcp, line);
        self
    }
}

impl Group {
    /// A group without targets.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), keys: String::new(), tcp: String::new(), health: None, targets: Vec::new() }
    }

    /// Adds a line to `[[group]]`.
    pub fn with(mut self, line: &str) -> Self {
        add(&mut self.keys, line);
        self
    }

    /// Adds a line to `[group.tcp]`.
    pub fn tcp(mut self, line: &str) -> Self {
        add(&mut self.tcp, line);
        self
    }

    /// Adds a line to `[group.health]`; an empty one adds the table.
    pub fn health(mut self, line: &str) -> Self {
        add(self.health.get_or_insert_default(), line);
        self
    }

    /// Adds a target by name and port.
    pub fn named_target(mut self, address: &str) -> Self {
        self.targets.push(format!("address = {address:?}\n"));
        self
    }

    /// Adds a target.
    pub fn target(self, address: SocketAddr) -> Self {
        self.target_with(address, "")
    }

    /// Adds a target with further lines in its `[[group.target]]`.
    pub fn target_with(mut self, address: SocketAddr, lines: &str) -> Self {
        self.targets.push(format!("address = \"{address}\"\n{lines}\n"));
        self
    }
}

impl Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.groups.iter().map(|group| group.name.as_str()).collect();
        write!(f, "[runtime]\n{}\n[admin]\nlisten = \"{ADMIN}\"\nsocket = {:?}\n\n", self.runtime, self.socket)?;
        write!(f, "[dns]\n{}\n", self.dns)?;
        write!(f, "{}\n[datapath]\n{}\n", self.tables, self.datapath)?;
        write!(f, "[[listener]]\nname = \"main\"\nbind = {:?}\ngroups = {names:?}\n{}\n", self.bind, self.listener)?;
        write!(f, "[listener.tcp]\n{}\n", self.listener_tcp)?;
        self.groups.iter().try_for_each(|group| group.fmt(f))
    }
}

impl Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[[group]]\nname = {:?}\n{}\n[group.tcp]\n{}\n", self.name, self.keys, self.tcp)?;
        if let Some(health) = &self.health {
            write!(f, "[group.health]\n{health}\n")?;
        }
        self.targets.iter().try_for_each(|target| writeln!(f, "[[group.target]]\n{target}"))
    }
}

fn add(lines: &mut String, line: &str) {
    writeln!(lines, "{line}").expect("writing to a string cannot fail");
}
