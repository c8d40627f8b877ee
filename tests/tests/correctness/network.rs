//! The networks that sessions are tried over.

use std::time::Duration;

use anyhow::{Result, ensure};
use landbridge_tests::{Link, Net, Offloads, Weather};

/// A network, the same on both legs unless its name says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// Devices that take packets of up to 64 KiB.
    LargeSegments,
    /// Devices that put segments together.
    PutTogether,
    /// Devices that do nothing for TCP.
    OneByOne,
    /// Packets of at most 1280 bytes, the least that IPv6 needs, on the client's side; of 9000 on the targets'.
    UnequalPackets,
    /// Packets are lost, repeated and reordered.
    Bad,
}

/// Enough for many timeouts and fast retransmissions in a test, little enough for it to end soon.
const WEATHER: Weather =
    Weather { seed: 0, lost: 0.01, duplicated: 0.01, late: 0.03, latest: Duration::from_millis(4) };

impl Network {
    /// A client, a proxy and one target host.
    pub(crate) fn lay_out(self, seed: u64) -> Result<Net> {
        let link = Link::default();
        let [client, target] = match self {
            Self::LargeSegments => [link; 2],
            Self::PutTogether => [Link { offloads: Offloads::Receive, ..link }; 2],
            Self::OneByOne => [Link { offloads: Offloads::Neither, ..link }; 2],
            Self::UnequalPackets => [Link { mtu: 1280, ..link }, Link { mtu: 9000, ..link }],
            Self::Bad => {
                let stormy = |seed| Link { weather: Some(Weather { seed, ..WEATHER }), ..link };
                [stormy(seed), stormy(!seed)]
            }
        };
        Net::with_links(client, &[target])
    }

    /// Whether it did what it is for.
    pub(crate) fn check(self, net: &Net) -> Result<()> {
        for damage in net.damage() {
            println!("{damage:?}");
            ensure!(damage.lost.min(damage.duplicated).min(damage.late) > 100, "fair weather: {damage:?}");
        }
        Ok(())
    }
}
