//! How long a target's death is felt: a client asks, one new connection after the other, for the name of who answers.
//!
//! The second target is a reserve that gets nothing while the first one lives.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Death;
use crate::bench::contender::{self, Running, Service};
use crate::bench::host::TARGET;
use crate::bench::lab::{Lab, make_folder};
use crate::bench::metric::{Metric, Sample};
use crate::bench::process;
use crate::child::Child;

/// Nobody has this hardware address: what is sent to it is lost without an answer.
const NOBODY: &str = "02:00:00:00:00:99";

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(2);

/// How long a client waits for one answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long the first target must have answered before it dies: health checks have found both by then.
const WARM: Duration = Duration::from_millis(1500);

/// After this long without a takeover there will be none.
const LIMIT: Duration = Duration::from_secs(20);

pub(super) fn run(lab: &Lab, running: &Running, death: Death) -> Result<Vec<Sample>> {
    let mut first = start(lab, "first", Service::Pair.targets()[0])?;
    let _spare = start(lab, "spare", Service::Pair.targets()[1])?;
    let address = running.address(Service::Pair);
    let (reach_first, reach_spare) = ("first".to_owned(), "spare".to_owned());

    // A client may meet a proxy whose health checks have not begun.
    let begin = Instant::now();
    while begin.elapsed() < WARM || lab.net.client.enter(|| ask(address))?.ok().as_ref() != Some(&reach_first) {
        ensure!(begin.elapsed() < LIMIT, "the first target does not answer through {}", running.contender);
        thread::sleep(Duration::from_millis(50));
    }

    let asking = lab.net.client.spawn(move || takeover(address, &reach_spare));
    thread::sleep(Duration::from_millis(50));
    let died = Instant::now();
    match death {
        Death::Process => first.process.kill().context("cannot kill a target")?,
        Death::Host => {
            lab.net.proxy.ip(&format!("neigh replace {TARGET} lladdr {NOBODY} dev targets nud permanent"))?;
        }
    }
    let outcome = asking.join().map_err(|_| anyhow::anyhow!("the thread that asks panicked"))?;
    if death == Death::Host {
        lab.net.proxy.ip(&format!("neigh del {TARGET} dev targets"))?;
    }
    let (taken, lost) = outcome?;
    let takeover = taken.saturating_duration_since(died);
    Ok(vec![
        Sample::new(Metric::Takeover, takeover.as_secs_f64() * 1e3),
        Sample::new(Metric::LostRequests, f64::from(lost)),
    ])
}

fn start(lab: &Lab, name: &str, address: SocketAddr) -> Result<Child> {
    let root = process::folder()?.join(format!("target-{name}"));
    make_folder(&root)?;
    fs::write(root.join("name"), name).context("cannot write the target's file")?;
    let mut command = contender::target(&lab.net, &lab.tools.nginx, address, &root)?;
    let child = process::start(&format!("target-{name}"), &mut command)?;
    lab.net.targets.wait_for(address)?;
    Ok(child)
}

/// Asks until the spare target answers: when that was, and how many requests were lost before.
fn takeover(address: SocketAddr, spare: &str) -> Result<(Instant, u32)> {
    let begin = Instant::now();
    let mut lost = 0;
    loop {
        match ask(address) {
            Ok(name) if name == spare => return Ok((Instant::now(), lost)),
            Ok(_) => {}
            Err(_) => lost += 1,
        }
        ensure!(begin.elapsed() < LIMIT, "the spare target did not take over within {} s", LIMIT.as_secs());
        thread::sleep(PAUSE);
    }
}

/// The name that the target behind `address` answers with.
fn ask(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /name HTTP/1.1\r\nhost: target\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, name) = answer.split_once("\r\n\r\n").context("no answer")?;
    Ok(name.to_owned())
}
