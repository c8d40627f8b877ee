//! The limits that sessions are tried with, as options of `[datapath]`.

use landbridge_tests::Config;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// How easily a direction changes its datapath.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limits {
    /// Into the kernel at once, and out of it again and again.
    Tiny,
    /// Into the kernel at once, and not out of it before the end.
    Huge,
    /// As they are without options.
    Usual,
    /// Anything in between.
    Random,
}

/// All of them.
pub(crate) const ALL: [Limits; 4] = [Limits::Tiny, Limits::Huge, Limits::Usual, Limits::Random];

impl Limits {
    /// The configuration with these limits; the seed decides where chance does.
    pub(crate) fn apply(self, config: Config, seed: u64) -> Config {
        let random = &mut SmallRng::seed_from_u64(seed);
        let lines: Vec<String> = match self {
            Self::Usual => return config,
            Self::Tiny => line_up([
                ("splice_size", "\"1KiB\""),
                ("splice_after", "1"),
                ("copy_after", "1"),
                ("promote_after", "1"),
                ("promote_gap", "\"0s\""),
                ("reluctance", "1"),
                ("soft_limit", "\"1KiB\""),
                ("hard_limit", "\"64KiB\""),
                ("bulk_limit", "\"1KiB\""),
            ]),
            Self::Huge => line_up([
                ("promote_after", "1"),
                ("promote_gap", "\"0s\""),
                ("soft_limit", "\"512MiB\""),
                ("hard_limit", "\"1GiB\""),
                ("bulk_limit", "\"1GiB\""),
            ]),
            Self::Random => {
                let mut size = |most: u32| 1_u64 << random.random_range(0..=most);
                let [soft, bulk, splice] = [size(11), size(11), size(5)];
                // The least that there can be, or more.
                let hard = soft + (32 << random.random_range(0..=7));
                let mut number = |most: u32| random.random_range(1..=most).to_string();
                let [splice_after, copy_after, promote_after, reluctance] =
                    [number(4), number(8), number(3), number(8)];
                let gap = random.random_range(0..4);
                line_up([
                    ("splice_size", &format!("\"{splice}KiB\"")),
                    ("splice_after", &splice_after),
                    ("copy_after", &copy_after),
                    ("promote_after", &promote_after),
                    ("promote_gap", &format!("\"{gap}ms\"")),
                    ("reluctance", &reluctance),
                    ("soft_limit", &format!("\"{soft}KiB\"")),
                    ("hard_limit", &format!("\"{hard}KiB\"")),
                    ("bulk_limit", &format!("\"{bulk}KiB\"")),
                ])
            }
        };
        println!("{}", lines.join(", "));
        lines.iter().fold(config, |config, line| config.datapath(line))
    }
}

fn line_up<const N: usize>(options: [(&str, &str); N]) -> Vec<String> {
    options.map(|(name, value)| format!("{name} = {value}")).into()
}
