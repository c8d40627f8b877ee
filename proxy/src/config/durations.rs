//! Which durations an option takes.

use std::time::Duration;

use super::fault::Fault;
use super::suggest::quoted;
use super::units::{self, written};

/// The durations that an option takes, and why not others.
#[derive(Debug)]
pub(super) struct DurationRange {
    pub(super) least: Duration,
    pub(super) most: Duration,
    /// The resolution of what the duration is given to.
    pub(super) step: Duration,
    /// What "0s" means, where it has a meaning of its own.
    pub(super) zero: Option<&'static str>,
}

/// The resolution of timers.
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);

impl DurationRange {
    /// Reads a duration within these limits.
    pub(super) fn read(&self, text: &str) -> Result<Duration, Fault> {
        let duration = units::duration(text)?;
        if self.zero.is_some() && duration.is_zero() {
            return Ok(duration);
        }
        let fault = |what: &str| Err(Fault::new(format!("{} {what}", quoted(text)), self.remedy()));
        if duration < self.least {
            fault(if duration.is_zero() { "makes no sense here" } else { "is too short" })
        } else if duration > self.most {
            fault("is too long")
        } else if !duration.as_nanos().is_multiple_of(self.step.as_nanos()) {
            let remedy = format!("use a multiple of \"{}\"", written(self.step));
            Err(Fault::new(format!("{} is finer than this option can be", quoted(text)), remedy))
        } else {
            Ok(duration)
        }
    }

    /// What a bare number most likely means: seconds, or milliseconds when so many seconds are too many.
    pub(super) fn meant_by(&self, number: i128) -> Option<String> {
        [format!("{number}s"), format!("{number}ms")].into_iter().find(|text| self.read(text).is_ok())
    }

    /// What would be right.
    pub(super) fn remedy(&self) -> String {
        let whole = if self.step == MILLISECOND { "" } else { " in whole seconds" };
        let zero = self.zero.map(|meaning| format!(", or \"0s\": {meaning}")).unwrap_or_default();
        format!("use a duration from \"{}\" to \"{}\"{whole}{zero}", written(self.least), written(self.most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_means_what_fits() {
        let limits =
            DurationRange { least: MILLISECOND, most: Duration::from_secs(120), step: MILLISECOND, zero: None };
        assert_eq!(limits.meant_by(2).unwrap(), "2s");
        assert_eq!(limits.meant_by(250).unwrap(), "250ms");
        assert_eq!(limits.meant_by(0), None);
        assert_eq!(limits.meant_by(-1), None);
        assert_eq!(limits.meant_by(i128::MAX), None);
    }
}
