//! Durations and sizes as people write them.

use std::time::Duration;

use thiserror::Error;

/// Why a text is not a duration or a size.
#[derive(Debug, Error)]
pub enum UnitError {
    /// A bare number.
    #[error("\"{text}\" has no unit")]
    NoUnit {
        /// What was given.
        text: String,
        /// The number with the unit that is likely meant.
        example: String,
    },
    /// Not a duration at all.
    #[error("\"{text}\" is not a duration")]
    NotADuration {
        /// What was given.
        text: String,
        /// What is wrong with it.
        source: humantime::DurationError,
    },
    /// Not a size at all.
    #[error("\"{text}\" is not a size")]
    NotASize {
        /// What was given.
        text: String,
    },
}

impl UnitError {
    /// What would be right.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoUnit { example, .. } => format!("write \"{example}\""),
            Self::NotADuration { .. } => "write a number and a unit, such as \"250ms\", \"2s\" or \"5m\"".to_owned(),
            Self::NotASize { .. } => "write a number and a unit, such as \"64KiB\" or \"4MiB\"".to_owned(),
        }
    }
}

/// Reads a duration: whole numbers with units, such as `250ms`, `2s`, `1h 30m`.
///
/// # Errors
/// When the text is anything else, also a number without a unit.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    if is_bare_number(text) {
        return Err(UnitError::NoUnit { text: text.to_owned(), example: format!("{text}s") });
    }
    humantime::parse_duration(text).map_err(|source| UnitError::NotADuration { text: text.to_owned(), source })
}

/// Reads a size in bytes: a number with a unit, such as `512B`, `64KiB`, `4MiB`, `1GB`.
///
/// # Errors
/// When the text is anything else, also a number without a unit.
pub fn size(text: &str) -> Result<u64, UnitError> {
    if is_bare_number(text) {
        return Err(UnitError::NoUnit { text: text.to_owned(), example: format!("{text}B") });
    }
    let size: Result<bytesize::ByteSize, _> = text.parse();
    size.map(|size| size.as_u64()).map_err(|_: String| UnitError::NotASize { text: text.to_owned() })
}

/// Writes a duration in the largest unit that gives a whole number; [`duration`] reads it back.
pub fn written(duration: Duration) -> String {
    const UNITS: [(u128, &str); 5] =
        [(3_600_000_000_000, "h"), (60_000_000_000, "m"), (1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")];
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let fitting = UNITS.iter().find(|(size, _)| nanos.is_multiple_of(*size));
    fitting.map_or_else(|| format!("{nanos}ns"), |(size, unit)| format!("{}{unit}", nanos / size))
}

/// Writes a size in the largest binary unit that gives a whole number; [`size`] reads it back.
pub fn written_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let fitting = UNITS.iter().find(|(size, _)| bytes > 0 && bytes.is_multiple_of(*size));
    fitting.map_or_else(|| format!("{bytes}B"), |(size, unit)| format!("{}{unit}", bytes / size))
}

fn is_bare_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [("250ms", 250), ("2s", 2_000), ("5m", 300_000), ("1h 30m", 5_400_000), ("0s", 0)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in ["", "s", "2", "-2s", "2 parsecs", "two seconds", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(duration("90").unwrap_err().remedy(), "write \"90s\"");
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("4MiB", 4 << 20), ("1GB", 1_000_000_000)] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "4", "MiB", "-4MiB", "4 apples"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn written_durations_are_read_back(nanos in any::<u64>()) {
            let given = Duration::from_nanos(nanos);
            prop_assert_eq!(duration(&written(given)).unwrap(), given);
        }

        #[test]
        fn written_sizes_are_read_back(bytes in 0_u64..1 << 50, shift in 0_u32..40) {
            let given = bytes >> shift << shift;
            prop_assert_eq!(size(&written_size(given)).unwrap(), given);
        }
    }
}
