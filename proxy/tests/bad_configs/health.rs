//! `[group.health]` and what a group says about failing over.

use crate::Case;
use crate::Text::After;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "failover values",
        text: After(
            6,
            r#"min_healthy = 0
on_down = "kill"
failback_hold = 10
slow_start = "25h"
eject_after = -1
eject_hold = "6m"
max_ejected = 101"#,
        ),
        problems: &[
            ("group[0].min_healthy", 7, "0 is out of range", "use a whole number from 1"),
            ("group[0].on_down", 8, r#""kill" is not a choice"#, "keep"),
            ("group[0].failback_hold", 9, "10 is a whole number, not a duration", r#"write "10s""#),
            ("group[0].slow_start", 10, r#""25h" is too long"#, r#"to "24h""#),
            ("group[0].eject_after", 11, "-1 is out of range", "from 0 to 1000"),
            ("group[0].eject_hold", 12, r#""6m" is too long"#, r#"to "5m""#),
            ("group[0].max_ejected", 13, "101 is out of range", "from 0 to 100"),
        ],
    },
    Case {
        name: "more healthy targets than there are targets",
        text: After(6, "min_healthy = 2"),
        problems: &[("group[0].min_healthy", 7, "the group has fewer targets", "use at most 1")],
    },
    Case {
        name: "health values",
        text: After(
            6,
            r#"[group.health]
kind = "icmp"
method = "get"
path = "health"
host = "a b"
expect = ["2xx", 200]
body = ""
port = 0
interval = "1ms"
timeout = "2m"
rise = 0
fall = 1001
retries = 3"#,
        ),
        problems: &[
            ("group[0].health.kind", 8, r#""icmp" is not a choice"#, "tcp"),
            ("group[0].health.method", 9, r#""get" is not a choice"#, "GET"),
            ("group[0].health.path", 10, r#""health" does not begin with /"#, r#"such as "/health""#),
            ("group[0].health.host", 11, r#""a b" cannot stand in a request"#, "Host header"),
            ("group[0].health.expect[0]", 12, r#""2xx" is no range of status codes"#, r#"such as "200" or "200-299""#),
            ("group[0].health.expect[1]", 12, "200 is a whole number, not a string", "200-299"),
            ("group[0].health.body", 13, "0 bytes cannot be looked for", "use 1 to 1024 bytes"),
            ("group[0].health.port", 14, "0 is out of range", "from 1 to 65535"),
            ("group[0].health.interval", 15, r#""1ms" is too short"#, r#"from "10ms""#),
            ("group[0].health.timeout", 16, r#""2m" is too long"#, r#"to "1m""#),
            ("group[0].health.rise", 17, "0 is out of range", "from 1 to 1000"),
            ("group[0].health.fall", 18, "1001 is out of range", "from 1 to 1000"),
            ("group[0].health.retries", 19, "unknown key", "i"),
        ],
    },
    Case {
        name: "health options that do not fit together",
        text: After(
            6,
            r#"[group.health]
kind = "tcp"
path = "/health"
interval = "1s"
fast_interval = "2s""#,
        ),
        problems: &[
            ("group[0].health.path", 9, "a TCP probe asks for nothing", r#"write kind = "http""#),
            ("group[0].health.fast_interval", 11, "is longer than interval", "use at most the interval"),
        ],
    },
    Case {
        name: "a body that HEAD does not have",
        text: After(
            6,
            r#"[group.health]
method = "HEAD"
body = "ready""#,
        ),
        problems: &[("group[0].health.body", 9, "the answer to HEAD has no body", r#"write method = "GET""#)],
    },
];
