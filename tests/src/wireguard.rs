//! A WireGuard tunnel between two hosts, by `boringtun-cli`: the way to the on-premises group, as an operator would lay it.
//!
//! Two processes, one on each host, which end with the handle and take their devices with them.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::id;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

use crate::{Host, Process};

/// What fits into a packet of Ethernet under IPv6, UDP and WireGuard's own headers.
pub const MTU: u32 = 1420;

/// WireGuard's usual port.
const PORT: u16 = 51820;

/// Where the user-space implementations have their control sockets.
const SOCKETS: &str = "/var/run/wireguard";

/// Key pairs for tests alone, private and public.
const KEYS: [[&str; 2]; 2] = [
    [
        "2822b1420f2bcf69a9e6150f8c84f510626ef23cc0213e21f10777b96ec37264",
        "cd15717c76dd4f1eea4a3f1af0838d6dbe78495106540e16467bd1b573c97c24",
    ],
    [
        "d8db683249a75567d1d7b07cf7b9c17054aa3a8dfda5846b634e46e2a78c2e61",
        "df0edd2877a886735ac306fd7cb2e1a5fbac0978801bec9ed520ce93fed9697a",
    ],
];

/// A tunnel that stands.
#[derive(Debug)]
pub struct Tunnel {
    near: End,
    far: End,
}

/// One end of it.
#[derive(Debug)]
struct End {
    host: Host,
    device: String,
    _process: Process,
}

impl Tunnel {
    /// Lays a tunnel from `near` to `far`, which reach each other by these addresses.
    pub fn lay((near, near_address): (&Host, IpAddr), (far, far_address): (&Host, IpAddr)) -> Result<Self> {
        // The control sockets of all hosts are in one folder, so that no two devices may have one name.
        static TUNNELS: AtomicU32 = AtomicU32::new(0);
        let number = TUNNELS.fetch_add(1, Ordering::Relaxed);
        let end = |host: &Host, letter: char| End::start(host, format!("wg{:x}{letter}{number}", id()));
        let tunnel = Self { near: end(near, 'n')?, far: end(far, 'f')? };
        tunnel.near.set_up(KEYS[0][0], KEYS[1][1], far_address, near_v4())?;
        tunnel.far.set_up(KEYS[1][0], KEYS[0][1], near_address, far_v4())?;
        Ok(tunnel)
    }

    /// The device at the near end.
    pub fn device(&self) -> &str {
        &self.near.device
    }

    /// The address of the far end, with a port.
    pub fn far(&self, port: u16) -> SocketAddr {
        (far_v4(), port).into()
    }
}

impl End {
    fn start(host: &Host, device: String) -> Result<Self> {
        let mut command = host.command("boringtun-cli");
        command.args(["--foreground", "--disable-drop-privileges", &device]);
        let mut process = Process::start("boringtun-cli", &mut command)
            .context("cannot run boringtun-cli; cargo xtask setup --tests installs it")?;
        let socket = socket(&device);
        process.wait_ready(|_| UnixStream::connect(&socket).map(drop).map_err(Into::into))?;
        Ok(Self { host: host.clone(), device, _process: process })
    }

    /// Configures the end over its control socket (the cross-platform interface of WireGuard) and brings its device up.
    fn set_up(&self, private: &str, peer: &str, endpoint: IpAddr, address: Ipv4Addr) -> Result<()> {
        let mut control = UnixStream::connect(socket(&self.device))?;
        write!(
            control,
            "set=1\nprivate_key={private}\nlisten_port={PORT}\npublic_key={peer}\nendpoint={}\nallowed_ip=0.0.0.0/0\n\n",
            SocketAddr::new(endpoint, PORT)
        )?;
        let mut answer = String::new();
        BufReader::new(control).read_line(&mut answer)?;
        ensure!(answer.trim() == "errno=0", "{}: {answer}", self.device);
        self.host.ip(&format!("link set {} mtu {MTU} up", self.device))?;
        self.host.ip(&format!("addr add {address}/24 dev {}", self.device))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Its process has no time to take it away.
        std::fs::remove_file(socket(&self.device)).ok();
    }
}

fn socket(device: &str) -> PathBuf {
    PathBuf::from(SOCKETS).join(format!("{device}.sock"))
}

fn near_v4() -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, 1)
}

fn far_v4() -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, 2)
}
