//! An error with everything that caused it, in one line.

use std::error::Error;

/// `error`, its source, the source of that, and so on.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Some errors repeat what is below them; the same words need no second reading.
        let next = cause.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Outer(&'static str, #[source] io::Error);

    #[test]
    fn causes_follow_and_are_not_repeated() {
        let cause = || io::Error::other("wire cut");
        assert_eq!(chain(&cause()), "wire cut");
        assert_eq!(chain(&Outer("cannot connect", cause())), "cannot connect: wire cut");
        assert_eq!(chain(&Outer("cannot connect: wire cut", cause())), "cannot connect: wire cut");
    }
}
