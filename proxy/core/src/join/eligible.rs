//! Whether two legs can be joined at packet level.

/// What has to be known of a leg to say whether it can be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegFacts {
    /// Timestamps, SACK, window scaling and ECN, as bits of `tcpi_options`.
    pub options: u8,
    /// The scale of the windows that the peer announces.
    pub window_scale_in: u8,
    /// The scale of the windows that this side announces.
    pub window_scale_out: u8,
    /// The largest segment that this side told its peer to send, without options, in bytes.
    pub announced_mss: u32,
    /// The largest packet on the way to the peer, in bytes.
    pub path_mtu: u32,
    /// Whether the addresses are IPv6.
    pub is_ipv6: bool,
    /// Whether the peer is this host.
    pub is_local: bool,
}

/// `TCPI_OPT_TIMESTAMPS`
pub const TIMESTAMPS: u8 = 1;
/// `TCPI_OPT_USEC_TS`: the clock of the timestamps counts microseconds.
pub const MICROSECONDS: u8 = 1 << 6;
/// What both legs have to agree on alike: `TCPI_OPT_TIMESTAMPS`, `_SACK`, `_WSCALE` and `_ECN` (linux/tcp.h), and their names.
pub const ALIKE: [(u8, &str); 4] = [(TIMESTAMPS, "timestamps"), (2, "SACK"), (4, "window scaling"), (8, "ECN")];
const ALIKE_BITS: u8 = ALIKE[0].0 | ALIKE[1].0 | ALIKE[2].0 | ALIKE[3].0;

/// Why two legs are not joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotJoined {
    /// A peer is on this host: its packets do not cross a device that could rewrite them.
    LocalPeer,
    /// The legs did not agree on the same TCP options.
    Options,
    /// A leg counts its timestamps in microseconds.
    Clock,
    /// The client may send segments that do not fit on the way to the target.
    ClientSegments,
    /// The target may send segments that do not fit on the way to the client.
    TargetSegments,
    /// As many sessions are joined as may be.
    Full,
    /// There are IPsec policies, which joined packets are not held against.
    Ipsec,
    /// It is not known by which device packets would leave, or it has no program.
    Device,
    /// A socket or a map of the kernel did not do what was asked.
    Kernel,
    /// The process leaves its joined sessions to another one, and joins no more.
    Retired,
    /// Until the session ended something was on its way.
    NeverQuiet,
}

impl NotJoined {
    /// Every reason, in a fixed order.
    pub const ALL: [Self; 11] = [
        Self::LocalPeer,
        Self::Options,
        Self::Clock,
        Self::ClientSegments,
        Self::TargetSegments,
        Self::Full,
        Self::Ipsec,
        Self::Device,
        Self::Kernel,
        Self::Retired,
        Self::NeverQuiet,
    ];

    /// The value of the metric label `reason`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::LocalPeer => "local_peer",
            Self::Options => "tcp_options",
            Self::Clock => "timestamp_clock",
            Self::ClientSegments => "client_mss",
            Self::TargetSegments => "target_mss",
            Self::Full => "joints_full",
            Self::Ipsec => "ipsec",
            Self::Device => "device",
            Self::Kernel => "join_refused",
            Self::Retired => "retired",
            Self::NeverQuiet => "never_quiet",
        }
    }
}

/// Whether two legs can be joined.
///
/// # Errors
/// The first reason why not.
pub const fn eligible(client: &LegFacts, target: &LegFacts) -> Result<(), NotJoined> {
    if client.is_local || target.is_local {
        return Err(NotJoined::LocalPeer);
    }
    if (client.options ^ target.options) & ALIKE_BITS != 0 {
        return Err(NotJoined::Options);
    }
    if (client.options | target.options) & MICROSECONDS != 0 {
        return Err(NotJoined::Clock);
    }
    if client.announced_mss + headers(target.is_ipv6) > target.path_mtu {
        return Err(NotJoined::ClientSegments);
    }
    if target.announced_mss + headers(client.is_ipv6) > client.path_mtu {
        return Err(NotJoined::TargetSegments);
    }
    Ok(())
}

/// The IP and TCP headers of a segment without options, which are what an MSS leaves out (RFC 9293, 3.7.1).
pub const fn headers(is_ipv6: bool) -> u32 {
    if is_ipv6 { 60 } else { 40 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: LegFacts = LegFacts {
        options: 0b111,
        window_scale_in: 7,
        window_scale_out: 7,
        announced_mss: 1460,
        path_mtu: 1500,
        is_ipv6: false,
        is_local: false,
    };

    #[test]
    fn legs_are_joined_only_if_every_packet_of_one_fits_the_other() {
        assert_eq!(eligible(&PLAIN, &PLAIN), Ok(()));
        for (client, target, expected) in [
            (LegFacts { is_local: true, ..PLAIN }, PLAIN, NotJoined::LocalPeer),
            (LegFacts { options: 0b110, ..PLAIN }, PLAIN, NotJoined::Options),
            (PLAIN, LegFacts { options: 0b1111, ..PLAIN }, NotJoined::Options),
            (LegFacts { options: 0b100_0111, ..PLAIN }, LegFacts { options: 0b100_0111, ..PLAIN }, NotJoined::Clock),
            (PLAIN, LegFacts { path_mtu: 1420, announced_mss: 1380, ..PLAIN }, NotJoined::ClientSegments),
            (PLAIN, LegFacts { announced_mss: 8960, path_mtu: 9000, ..PLAIN }, NotJoined::TargetSegments),
            // Twenty bytes more of header on the other side.
            (PLAIN, LegFacts { is_ipv6: true, announced_mss: 1440, ..PLAIN }, NotJoined::ClientSegments),
        ] {
            assert_eq!(eligible(&client, &target), Err(expected));
        }
        // ECN was seen, and scales that differ: both are translated.
        let other = LegFacts { options: 0b1_0111, window_scale_in: 2, window_scale_out: 14, ..PLAIN };
        assert_eq!(eligible(&PLAIN, &other), Ok(()));
    }
}
