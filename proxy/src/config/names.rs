//! Rules for names: of landbridge's own things, and of things the kernel knows.

use super::fault::Fault;
use super::suggest::quoted;

/// Longest name of a listener, group or target: it is a metric label and a word of the command line.
const LONGEST_NAME: usize = 64;

/// Longest device name: IFNAMSIZ (linux/if.h) is 16 with the final NUL.
const LONGEST_DEVICE: usize = 15;

/// Longest name of a congestion control: TCP_CA_NAME_MAX (linux/tcp.h) is 16 with the final NUL.
const LONGEST_CONGESTION: usize = 15;

/// The name of a listener, group or target. The characters are those of words and of addresses, which are the default
/// names of targets; `/` separates group and target on the command line.
pub(super) fn own(text: &str) -> Result<String, Fault> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._:[]-".contains(c);
    if let Some(strange) = text.chars().find(|&c| !fits(c)) {
        let what = format!("{} contains {}", quoted(text), quoted(&strange.to_string()));
        return Err(Fault::new(what, "use letters, digits and . _ : [ ] -"));
    }
    of_length(text, LONGEST_NAME)
}

/// The name of a network device, as the kernel accepts it (dev_valid_name in net/core/dev.c).
pub(super) fn device(text: &str) -> Result<String, Fault> {
    let strange = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text.contains(strange) || text == "." || text == ".." {
        return Err(Fault::new(format!("{} cannot be the name of a device", quoted(text)), DEVICE_REMEDY));
    }
    of_length(text, LONGEST_DEVICE)
}

/// The name of a congestion control. Whether the kernel has it is known only where the daemon runs.
pub(super) fn congestion(text: &str) -> Result<String, Fault> {
    if !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Fault::new(
            format!("{} cannot be the name of a congestion control", quoted(text)),
            CONGESTION_REMEDY,
        ));
    }
    of_length(text, LONGEST_CONGESTION)
}

const DEVICE_REMEDY: &str = "give the name that `ip link` shows, such as \"wt0\"";
const CONGESTION_REMEDY: &str = "give a name that `sysctl net.ipv4.tcp_available_congestion_control` shows";

fn of_length(text: &str, longest: usize) -> Result<String, Fault> {
    match text.len() {
        0 => Err(Fault::new("the name is empty", format!("use 1 to {longest} characters"))),
        length if length > longest => {
            Err(Fault::new(format!("{} has {length} characters", quoted(text)), format!("use at most {longest}")))
        }
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_names() {
        for good in ["a", "gpu-1", "[fd00::1]:8000", "10.0.0.1:8000", "eu_west.1", &"x".repeat(64)] {
            assert_eq!(own(good).unwrap(), good);
        }
        for bad in ["", "a b", "a/b", "ä", "a\n", "a\"", &"x".repeat(65)] {
            assert!(own(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn device_names() {
        for good in ["wt0", "eth0.100", "tailscale0", "wg-onprem", "exactly-fifteen"] {
            assert_eq!(device(good).unwrap(), good);
        }
        for bad in ["", ".", "..", "a/b", "a b", "eth0:1", "more-than-fifteen"] {
            assert!(device(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn congestion_names() {
        assert_eq!(congestion("bbr").unwrap(), "bbr");
        for bad in ["", "b b r", "bbr\n", "more-than-fifteen"] {
            assert!(congestion(bad).is_err(), "{bad:?}");
        }
    }
}
