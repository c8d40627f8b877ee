//! The balances: each chooses one of the able targets of a group, given with their indexes.

use core::cmp::Ordering;
use core::hash::Hasher;
use core::net::{IpAddr, SocketAddr};

use rand::RngExt;
use rand::rngs::SmallRng;
use siphasher::sip::SipHasher13;

use super::Target;
use super::smooth::SmoothRoundRobin;

pub(super) fn round_robin<'a>(
    able: impl Iterator<Item = (usize, &'a Target)>,
    turn: &mut SmoothRoundRobin,
) -> Option<usize> {
    turn.next(able.map(|(index, target)| (index, target.weight())))
}

/// The least loaded; equals take turns by weight.
pub(super) fn least_connections<'a>(
    able: impl Iterator<Item = (usize, &'a Target)> + Clone,
    turn: &mut SmoothRoundRobin,
) -> Option<usize> {
    let least = able.clone().map(|(_, target)| target).min_by(|a, b| a.load_cmp(b))?;
    round_robin(able.filter(|(_, target)| target.load_cmp(least) == Ordering::Equal), turn)
}

/// The less loaded of two that were drawn by weight.
pub(super) fn random_two<'a>(
    able: impl Iterator<Item = (usize, &'a Target)> + Clone,
    random: &mut SmallRng,
) -> Option<usize> {
    let first = draw(able.clone(), random)?;
    let second = draw(able.filter(|&(index, _)| index != first.0), random);
    let second = second.filter(|second| second.1.load_cmp(first.1) == Ordering::Less);
    Some(second.unwrap_or(first).0)
}

fn draw<'a>(
    able: impl Iterator<Item = (usize, &'a Target)> + Clone,
    random: &mut SmallRng,
) -> Option<(usize, &'a Target)> {
    let weight = |target: &Target| u64::from(target.weight());
    let sum: u64 = able.clone().map(|(_, target)| weight(target)).sum();
    let mut ticket = (sum > 0).then(|| random.random_range(0..sum))?;
    able.into_iter().find(|(_, target)| {
        let hit = ticket < weight(target);
        ticket = ticket.saturating_sub(weight(target));
        hit
    })
}

/// Weighted rendezvous: the highest `-weight / ln(hash)` wins, with the hash of client and target as a number between 0
/// and 1. Each client ranks the targets on its own, so a target that leaves moves only the clients that had
/// ranked it first, and shares follow the weights. The hash has a fixed key: every instance ranks alike.
pub(super) fn source_hash<'a>(able: impl Iterator<Item = (usize, &'a Target)>, client: IpAddr) -> Option<usize> {
    let best = able.max_by(|(_, a), (_, b)| score(client, a).total_cmp(&score(client, b)));
    best.map(|(index, _)| index)
}

fn score(client: IpAddr, target: &Target) -> f64 {
    let mut hasher = SipHasher13::new();
    write_ip(&mut hasher, client);
    write_address(&mut hasher, target.spec.address);
    // 53 bits fill the mantissa; the half keeps the fraction away from 0 and 1, where the logarithm is no use.
    let fraction = ((hasher.finish() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(target.weight()) / libm::log(fraction)
}

/// A client keeps its target whether it comes over an IPv4 or a dual-stack socket.
fn write_ip(hasher: &mut SipHasher13, ip: IpAddr) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => hasher.write(&ip.octets()),
        IpAddr::V6(ip) => hasher.write(&ip.octets()),
    }
}

fn write_address(hasher: &mut SipHasher13, address: SocketAddr) {
    write_ip(hasher, address.ip());
    hasher.write(&address.port().to_be_bytes());
}
