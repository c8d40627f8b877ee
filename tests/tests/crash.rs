//! A daemon that is killed: nothing of it stays in the kernel but joined sessions until `landbridge detach`, and the next one
//! serves at once.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::loaded_maps;
use aya::programs::loaded_programs;
use landbridge_tests::targets::Echo;
use landbridge_tests::{Config, Daemon, Net, PATIENCE, SocketExt, eventually};

/// Datapaths that use the kernel, with what is counted for a session that is there.
const DATAPATHS: [(&str, &str, f64); 3] = [
    ("auto", "landbridge_datapath_joins_total", 1.0),
    ("packet", "landbridge_datapath_joins_total", 1.0),
    ("sockmap", "landbridge_datapath_promotions_total", 2.0),
];

const SESSIONS: usize = 20;

/// More than a direction needs before it is promoted, and as slow.
const MESSAGES: usize = 10;
const GAP: Duration = Duration::from_millis(12);

/// Where programs and maps would be pinned.
const PINS: &str = "/sys/fs/bpf";

#[test]
fn a_killed_daemon_leaves_nothing_and_the_next_one_serves_at_once() -> Result<()> {
    let net = Net::new(1)?;
    let target = Echo::start(&net.targets[0], 9000)?;
    for (datapath, counter, each) in DATAPATHS {
        let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}"));
        let pinned = pins();
        let mut daemon = Daemon::start(&net.proxy, &config)?;
        let mut clients = (0..SESSIONS).map(|_| net.client.connect(daemon.v4())).collect::<Result<Vec<_>>>()?;
        talk(&mut clients)?;
        daemon.wait_metric(counter, &[], each * SESSIONS as f64)?;
        let objects = Objects::of_process(daemon.process().id())?;
        ensure!(objects.programs.len() >= 2 && objects.maps.len() >= 6, "{datapath}: {objects:?}");
        ensure!(objects.left() == objects, "{datapath}: some are not loaded: {objects:?}");

        daemon.kill()?;
        if datapath != "sockmap" {
            talk(&mut clients).context("without a daemon")?;
            let detached = daemon.cli_alone(&["detach"])?;
            ensure!(detached.code() == 0, "{detached:?}");
        }
        let mut next = Daemon::start(&net.proxy, &config).context("the next daemon")?;
        let mut more = vec![net.client.connect(next.v4())?];
        talk(&mut more).context("through the next daemon")?;
        // The kernel frees them when no CPU can be running them any more.
        eventually("nothing is left", || {
            let left = objects.left();
            ensure!(left == Objects::default(), "{datapath}: {left:?}");
            Ok(())
        })?;
        ensure!(pins() == pinned, "{datapath}: pinned: {:?}", pins());
        for mut client in clients {
            // Its connection may be gone without a word, and then this is answered with a reset.
            let said = client.write_all(b"anybody there?");
            client.set_read_timeout(Some(PATIENCE))?;
            let heard = said.and_then(|()| client.read(&mut [0]));
            let silent = |error: &io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            ensure!(!matches!(&heard, Ok(1..)), "{datapath}: somebody answers");
            ensure!(!heard.as_ref().is_err_and(silent), "{datapath}: silence");
        }
        drop(more);
        next.stop()?;
    }
    Ok(())
}

/// All of them send messages, as slowly as tokens come, and hear them again.
fn talk(clients: &mut [TcpStream]) -> Result<()> {
    for _ in 0..MESSAGES {
        thread::sleep(GAP);
        for client in &mut *clients {
            client.expect_echo(b"a message")?;
        }
    }
    Ok(())
}

/// Programs and maps in the kernel, by their numbers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Objects {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

impl Objects {
    /// Those that a process has descriptors of.
    fn of_process(process: u32) -> Result<Self> {
        let mut objects = Self::default();
        for entry in fs::read_dir(format!("/proc/{process}/fdinfo"))? {
            // It may have been closed meanwhile.
            let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
            let number = |key| {
                let line = info.lines().find_map(|line| line.strip_prefix(key));
                line.map(|number| number.trim().parse::<u32>()).transpose()
            };
            objects.programs.extend(number("prog_id:")?);
            objects.maps.extend(number("map_id:")?);
        }
        Ok(objects)
    }

    /// Those of them that the kernel still has. What is freed while it is listed is an error of one item.
    fn left(&self) -> Self {
        let programs: BTreeSet<u32> = loaded_programs().flatten().map(|program| program.id()).collect();
        let maps: BTreeSet<u32> = loaded_maps().flatten().map(|map| map.id()).collect();
        Self { programs: &self.programs & &programs, maps: &self.maps & &maps }
    }
}

/// The names of what is pinned.
fn pins() -> BTreeSet<std::ffi::OsString> {
    fs::read_dir(PINS).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
}
