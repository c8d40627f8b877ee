//! Values of a wrong type or out of range, and words that are not a choice.

use crate::Case;
use crate::Text::{After, Line};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "string where a list belongs",
        text: Line(3, r#"bind = "0.0.0.0:8000""#),
        problems: &[("listener[0].bind", 3, r#""0.0.0.0:8000" is a string, not a list"#, r#"write ["0.0.0.0:8000"]"#)],
    },
    Case {
        name: "number where a name belongs",
        text: Line(2, "name = 7"),
        problems: &[(
            "listener[0].name",
            2,
            "7 is a whole number, not a string",
            r#"write a string in quotes, such as "inference""#,
        )],
    },
    Case {
        name: "number where a duration belongs",
        text: After(4, "idle_timeout = 2"),
        problems: &[("listener[0].idle_timeout", 5, "2 is a whole number, not a duration", r#"write "2s""#)],
    },
    Case {
        name: "number that fits only as milliseconds",
        text: After(6, "[group.tcp]\nconnect_timeout = 250"),
        problems: &[("group[0].tcp.connect_timeout", 8, "250 is a whole number, not a duration", r#"write "250ms""#)],
    },
    Case {
        name: "number that fits as no duration",
        text: After(6, "[group.tcp]\nconnect_timeout = 0"),
        problems: &[("group[0].tcp.connect_timeout", 8, "not a duration", r#"from "1ms" to "2m""#)],
    },
    Case {
        name: "string with a number out of range",
        text: After(6, r#"weight = "70000""#),
        problems: &[("group[0].weight", 7, "is a string, not a whole number", "from 0 to 65535")],
    },
    Case {
        name: "duration without a unit",
        text: After(4, r#"idle_timeout = "2""#),
        problems: &[("listener[0].idle_timeout", 5, r#""2" has no unit"#, r#"write "2s""#)],
    },
    Case {
        name: "not a duration",
        text: After(4, r#"idle_timeout = "soon""#),
        problems: &[(
            "listener[0].idle_timeout",
            5,
            r#""soon" is not a duration"#,
            r#"write a number and a unit, such as "250ms", "2s" or "5m""#,
        )],
    },
    Case {
        name: "fraction where a duration belongs",
        text: After(4, "idle_timeout = 0.5"),
        problems: &[(
            "listener[0].idle_timeout",
            5,
            "0.5 is a number with a fraction, not a duration",
            r#"use a duration from "1ms" to "168h", or "0s": never"#,
        )],
    },
    Case {
        name: "string where a number belongs",
        text: After(4, r#"max_connections = "100""#),
        problems: &[(
            "listener[0].max_connections",
            5,
            r#""100" is a string, not a whole number"#,
            "write 100 without quotes",
        )],
    },
    Case {
        name: "word where a number belongs",
        text: After(4, r#"max_connections = "many""#),
        problems: &[(
            "listener[0].max_connections",
            5,
            r#""many" is a string, not a whole number"#,
            "use a whole number from 1 to 1000000",
        )],
    },
    Case {
        name: "fraction where a number belongs",
        text: After(6, "weight = 1.5"),
        problems: &[(
            "group[0].weight",
            7,
            "1.5 is a number with a fraction, not a whole number",
            "use a whole number from 0 to 65535",
        )],
    },
    Case {
        name: "boolean where a word belongs",
        text: After(4, "accept_proxy = false"),
        problems: &[(
            "listener[0].accept_proxy",
            5,
            "false is a boolean, not a string",
            r#"use one of "off", "v1", "v2", "any""#,
        )],
    },
    Case {
        name: "date where a number belongs",
        text: After(6, "tier = 2024-01-01"),
        problems: &[(
            "group[0].tier",
            7,
            "2024-01-01 is a date or time, not a whole number",
            "use a whole number from 0 to 65535",
        )],
    },
    Case {
        name: "list where a word belongs",
        text: After(6, r#"balance = ["random-two"]"#),
        problems: &[(
            "group[0].balance",
            7,
            "is a list, not a string",
            r#"use one of "weighted-round-robin", "least-connections","#,
        )],
    },
    Case {
        name: "table where a number belongs",
        text: After(6, "weight = { cloud = 1 }"),
        problems: &[("group[0].weight", 7, "is a table, not a whole number", "use a whole number from 0 to 65535")],
    },
    Case {
        name: "number in a list of names",
        text: Line(4, r#"groups = ["a", 1]"#),
        problems: &[(
            "listener[0].groups[1]",
            4,
            "1 is a whole number, not a string",
            r#"write a string in quotes, such as "onprem""#,
        )],
    },
    Case {
        name: "weight too large",
        text: After(8, "weight = 70000"),
        problems: &[("group[0].target[0].weight", 9, "70000 is out of range", "use a whole number from 0 to 65535")],
    },
    Case {
        name: "weight negative",
        text: After(6, "weight = -1"),
        problems: &[("group[0].weight", 7, "-1 is out of range", "use a whole number from 0 to 65535")],
    },
    Case {
        name: "weight beyond all integers",
        text: After(6, "weight = 999999999999999999999999999999999999999999999"),
        problems: &[(
            "group[0].weight",
            7,
            "999999999999999999999999999999999999999999999 is out of range",
            "use a whole number from 0 to 65535",
        )],
    },
    Case {
        name: "tier too large",
        text: After(6, "tier = 65536"),
        problems: &[("group[0].tier", 7, "65536 is out of range", "use a whole number from 0 to 65535")],
    },
    Case {
        name: "no connection allowed",
        text: After(4, "max_connections = 0"),
        problems: &[("listener[0].max_connections", 5, "0 is out of range", "use a whole number from 1 to 1000000")],
    },
    Case {
        name: "too many connections",
        text: After(8, "max_connections = 5000000000"),
        problems: &[(
            "group[0].target[0].max_connections",
            9,
            "5000000000 is out of range",
            "use a whole number from 0 to 1000000",
        )],
    },
    Case {
        name: "too many workers",
        text: After(
            0,
            r#"[runtime]
workers = 4096"#,
        ),
        problems: &[("runtime.workers", 2, "4096 is out of range", "use a whole number from 0 to 1024")],
    },
    Case {
        name: "too many retries",
        text: After(
            6,
            r#"[group.tcp]
connect_retries = 17"#,
        ),
        problems: &[("group[0].tcp.connect_retries", 8, "17 is out of range", "use a whole number from 0 to 16")],
    },
    Case {
        name: "connect timeout of zero",
        text: After(
            6,
            r#"[group.tcp]
connect_timeout = "0s""#,
        ),
        problems: &[(
            "group[0].tcp.connect_timeout",
            8,
            r#""0s" makes no sense here"#,
            r#"use a duration from "1ms" to "2m""#,
        )],
    },
    Case {
        name: "connect timeout longer than the kernel's",
        text: After(
            6,
            r#"[group.tcp]
connect_timeout = "1h""#,
        ),
        problems: &[("group[0].tcp.connect_timeout", 8, r#""1h" is too long"#, r#"use a duration from "1ms" to "2m""#)],
    },
    Case {
        name: "months for minutes",
        text: After(
            0,
            r#"[runtime]
drain_timeout = "5M""#,
        ),
        problems: &[("runtime.drain_timeout", 2, r#""5M" is too long"#, r#"use a duration from "0s" to "24h""#)],
    },
    Case {
        name: "keepalive below a second",
        text: After(
            4,
            r#"[listener.tcp]
keepalive = "500ms""#,
        ),
        problems: &[(
            "listener[0].tcp.keepalive",
            6,
            r#""500ms" is too short"#,
            r#"use a duration from "1s" to "32767s" in whole seconds, or "0s":"#,
        )],
    },
    Case {
        name: "keepalive of broken seconds",
        text: After(
            4,
            r#"[listener.tcp]
keepalive = "1500ms""#,
        ),
        problems: &[(
            "listener[0].tcp.keepalive",
            6,
            r#""1500ms" is finer than this option can be"#,
            r#"use a multiple of "1s""#,
        )],
    },
    Case {
        name: "keepalive beyond the kernel's limit",
        text: After(
            4,
            r#"[listener.tcp]
keepalive = "10h""#,
        ),
        problems: &[(
            "listener[0].tcp.keepalive",
            6,
            r#""10h" is too long"#,
            r#"use a duration from "1s" to "32767s" in whole seconds, or "0s":"#,
        )],
    },
    Case {
        name: "user timeout of days",
        text: After(
            4,
            r#"[listener.tcp]
user_timeout = "30days""#,
        ),
        problems: &[(
            "listener[0].tcp.user_timeout",
            6,
            r#""30days" is too long"#,
            r#"use a duration from "1ms" to "24h", or "0s": the kernel's limit"#,
        )],
    },
    Case {
        name: "idle timeout finer than timers",
        text: After(4, r#"idle_timeout = "1500us""#),
        problems: &[(
            "listener[0].idle_timeout",
            5,
            r#""1500us" is finer than this option can be"#,
            r#"use a multiple of "1ms""#,
        )],
    },
];
