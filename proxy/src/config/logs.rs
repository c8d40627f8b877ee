//! `[log]` and `[session_log]`: what the daemon writes, and where.

use std::path::PathBuf;

use super::fault::Fault;
use super::notes::Noted;
use super::raw::Table;
use super::suggest::quoted;
use super::{LogFormat, LogOutput, LogRules, SessionLogRules};

pub(super) const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];

/// A sample of less tells nothing about a day.
const MOST_ONE_IN: u32 = 1_000_000;

/// Reads `[log]`.
pub(super) fn log(table: Table<'_>) -> Result<LogRules, Noted> {
    let format = table.or("format", LogFormat::Text, |v| v.choice(FORMATS));
    table.finish();
    Ok(LogRules { format: format? })
}

/// Reads `[session_log]`.
pub(super) fn session_log(table: Table<'_>) -> Result<SessionLogRules, Noted> {
    let output = table.or("path", None, |v| v.parse("/var/log/landbridge/sessions.jsonl", output));
    let one_in = table.or("one_in", 1, |v| v.number(1..=MOST_ONE_IN));
    table.finish();
    Ok(SessionLogRules { output: output?, one_in: one_in? })
}

fn output(text: &str) -> Result<Option<LogOutput>, Fault> {
    match text {
        "off" => Ok(None),
        "stdout" => Ok(Some(LogOutput::Stdout)),
        path if path.starts_with('/') && !path.contains('\0') => Ok(Some(LogOutput::File(PathBuf::from(path)))),
        _ => {
            let remedy = "give an absolute path such as \"/var/log/landbridge/sessions.jsonl\", \"stdout\", or \"off\"";
            Err(Fault::new(format!("{} cannot be the path of the session log", quoted(text)), remedy))
        }
    }
}
