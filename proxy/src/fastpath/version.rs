//! Which kernels forward without a known fault: an allow-list, with the reasons.
//!
//! The stable series 5.15 and 5.10 got only some of the corrections, and 6.13 to 6.15 are not maintained any more. What a
//! distribution corrected on its own does not show in the version: such a kernel is refused although it might work.

use std::fmt;

/// A version as `uname -r` prints it, without what follows the third number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

/// Something that the kernel did wrong when a verdict redirected.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// What happened to a stream.
    pub what: &'static str,
    /// The first version of all later ones that does not do it.
    corrected: Version,
    /// The first one of each stable series that got the correction.
    stable: &'static [Version],
}

/// The stable releases that got the last of the corrections.
const STABLE: [Version; 3] = [Version::new(6, 1, 142), Version::new(6, 6, 94), Version::new(6, 12, 34)];

/// What is known, the latest correction first.
const FAULTS: [Fault; 2] = [
    Fault {
        what: "a redirect that the sink took in parts was sent twice",
        corrected: Version::new(6, 16, 0),
        stable: &STABLE,
    },
    Fault {
        what: "data of a verdict was counted wrong and could stall",
        corrected: Version::new(6, 4, 0),
        stable: &STABLE,
    },
];

impl Version {
    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// The version in a release such as `6.1.0-49-cloud-amd64`; `None` if it does not begin with one.
    pub fn of(release: &str) -> Option<Self> {
        let numbers = release.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        Some(Self::new(numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
    }

    /// The version of a kernel by its release and its build, which are what `uname -r` and `uname -v` print. Debian's release
    /// names the beginning of a stable series, and only its build says how far it is: `#1 SMP Debian 6.1.172-1 (2026-05-15)`.
    pub fn of_build(release: &str, build: &str) -> Option<Self> {
        let named = Self::of(release)?;
        let built = build.split_once("Debian ").and_then(|(_, built)| Self::of(built));
        let is_series = |built: &Self| (built.major, built.minor) == (named.major, named.minor);
        Some(built.filter(is_series).map_or(named, |built| built.max(named)))
    }

    /// What this version is known to do wrong.
    pub fn faults(self) -> impl Iterator<Item = &'static Fault> {
        FAULTS.iter().filter(move |fault| {
            let in_series = |first: &Version| (first.major, first.minor) == (self.major, self.minor) && self >= *first;
            self < fault.corrected && !fault.stable.iter().any(in_series)
        })
    }

    /// Whether this version forwards without a known fault.
    pub fn is_good(self) -> bool {
        self.faults().next().is_none()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The versions that [`Version::is_good`] takes, in words.
pub const GOOD: &str = "6.16 or later, or 6.12.34, 6.6.94, 6.1.142 or later of these series";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        for (release, version) in [
            ("6.18.44-fc-v595", Some(Version::new(6, 18, 44))),
            ("6.1.0-49-cloud-amd64", Some(Version::new(6, 1, 0))),
            ("7.0-rc1", Some(Version::new(7, 0, 0))),
            ("6.16.0+", Some(Version::new(6, 16, 0))),
            ("6", None),
            ("", None),
            ("next-20260101", None),
        ] {
            assert_eq!(Version::of(release), version, "{release}");
        }
    }

    #[test]
    fn debian_tells_its_stable_release_in_the_build() {
        let debian = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.172-1 (2026-05-15)";
        for (release, build, version) in [
            ("6.1.0-48-amd64", debian, Some("6.1.172")),
            ("6.1.180-custom", debian, Some("6.1.180")),
            ("6.12.38+deb13-amd64", "#1 SMP Debian 6.12.38-1 (2025-07-16)", Some("6.12.38")),
            ("6.6.0", debian, Some("6.6.0")),
            ("6.1.0-48-amd64", "#1 SMP", Some("6.1.0")),
            ("6.1.0-48-amd64", "#1 SMP Debian sid", Some("6.1.0")),
            ("", debian, None),
        ] {
            let found = Version::of_build(release, build).map(|version| version.to_string());
            assert_eq!(found.as_deref(), version, "{release} {build}");
        }
    }

    #[test]
    fn only_corrected_kernels_are_good() {
        for (release, good) in [
            ("5.10.240", false),
            ("5.15.190", false),
            ("6.1.141", false),
            ("6.1.142", true),
            ("6.3.13", false),
            ("6.6.93", false),
            ("6.6.94", true),
            ("6.8.0-60-generic", false),
            ("6.12.33", false),
            ("6.12.34", true),
            ("6.13.12", false),
            ("6.15.11", false),
            ("6.16.0", true),
            ("6.18.44-fc-v595", true),
            ("7.0.1", true),
        ] {
            assert_eq!(Version::of(release).unwrap().is_good(), good, "{release}");
        }
    }

    #[test]
    fn faults_are_those_of_the_version() {
        let faults = |release| Version::of(release).unwrap().faults().map(|fault| fault.what).collect::<Vec<_>>();
        assert_eq!(faults("6.15.11"), [FAULTS[0].what]);
        assert_eq!(faults("6.1.141"), [FAULTS[0].what, FAULTS[1].what]);
        assert!(faults("6.1.142").is_empty());
    }
}
