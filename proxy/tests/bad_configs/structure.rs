//! What is missing, or is not the table it should be; keys that nobody knows.

use crate::Case;
use crate::Text::{After, Line, Whole};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "empty file",
        text: Whole(""),
        problems: &[
            ("group", 1, "no group", "add [[group]] with a name and a [[group.target]]"),
            ("listener", 1, "no listener", "add [[listener]] with name, bind and groups"),
        ],
    },
    Case {
        name: "only a comment",
        text: Whole(
            r#"# nothing here
"#,
        ),
        problems: &[
            ("group", 1, "no group", "add [[group]] with a name and a [[group.target]]"),
            ("listener", 1, "no listener", "add [[listener]] with name, bind and groups"),
        ],
    },
    Case {
        name: "no group",
        text: Whole(
            r#"[[listener]]
name = "in"
bind = ["0.0.0.0:8000"]
groups = ["a"]
"#,
        ),
        problems: &[
            ("group", 1, "no group", "add [[group]] with a name and a [[group.target]]"),
            ("listener[0].groups[0]", 4, r#"there is no group "a""#, r#"add [[group]] with name = "a""#),
        ],
    },
    Case {
        name: "no listener",
        text: Whole(
            r#"[[group]]
name = "a"
[[group.target]]
address = "10.0.0.1:80"
"#,
        ),
        problems: &[("listener", 1, "no listener", "add [[listener]] with name, bind and groups")],
    },
    Case {
        name: "listener without anything",
        text: Whole(
            r#"[[listener]]
[[group]]
name = "a"
[[group.target]]
address = "10.0.0.1:80"
"#,
        ),
        problems: &[
            ("listener[0].bind", 1, "missing", r#"write bind = ["0.0.0.0:8000"]"#),
            ("listener[0].groups", 1, "missing", r#"write groups = ["onprem"], the names of its [[group]] tables"#),
            ("listener[0].name", 1, "missing", r#"write name = "inference""#),
        ],
    },
    Case {
        name: "group without a name",
        text: Line(6, ""),
        problems: &[("group[0].name", 5, "missing", r#"write name = "onprem""#)],
    },
    Case {
        name: "group without a target",
        text: Whole(
            r#"[[listener]]
name = "in"
bind = ["0.0.0.0:8000"]
groups = ["a"]
[[group]]
name = "a"
"#,
        ),
        problems: &[("group[0].target", 5, "no target", r#"add [[group.target]] with address = "10.0.0.1:8000""#)],
    },
    Case {
        name: "target without an address",
        text: Line(8, "weight = 1"),
        problems: &[("group[0].target[0].address", 7, "missing", r#"write address = "10.0.0.1:8000""#)],
    },
    Case {
        name: "listener as one table",
        text: Line(1, "[listener]"),
        problems: &[("listener", 1, "is one table, not a list of them", "write [[listener]]")],
    },
    Case {
        name: "group is a number",
        text: Whole(
            r#"group = 3
[[listener]]
name = "in"
bind = ["0.0.0.0:8000"]
groups = ["a"]
"#,
        ),
        problems: &[("group", 1, "3 is a whole number, not a list of tables", "write [[group]]")],
    },
    Case {
        name: "runtime is a list",
        text: After(0, "runtime = []"),
        problems: &[("runtime", 1, "is a list, not a table", "write [runtime]")],
    },
    Case {
        name: "listener list holds strings",
        text: Whole(
            r#"listener = ["in"]
[[group]]
name = "a"
[[group.target]]
address = "10.0.0.1:80"
"#,
        ),
        problems: &[("listener[0]", 1, r#""in" is a string, not a table"#, "write [[listener]]")],
    },
    Case {
        name: "unknown key, near",
        text: After(4, "max_conections = 5"),
        problems: &[("listener[0].max_conections", 5, "unknown key", "did you mean max_connections?")],
    },
    Case {
        name: "unknown key, far",
        text: After(
            0,
            r#"[runtime]
zzz = 1"#,
        ),
        problems: &[("runtime.zzz", 2, "unknown key", "the keys here are drain_timeout, readiness_delay, workers")],
    },
    Case {
        name: "unknown table",
        text: After(
            0,
            r#"[stats]
uri = "x""#,
        ),
        problems: &[(
            "stats",
            1,
            "unknown key",
            "the keys here are admin, datapath, dns, group, listener, log, runtime, session_log",
        )],
    },
    Case {
        name: "TLS",
        text: After(
            0,
            r#"[tls]
cert = "x""#,
        ),
        problems: &[(
            "tls",
            1,
            "unknown key",
            "TLS passes through as it is: clients and targets have the certificates",
        )],
    },
    Case {
        name: "key of the group below its tcp table",
        text: After(
            6,
            r#"[group.tcp]
keepalive = "15s"
tier = 1"#,
        ),
        problems: &[("group[0].tcp.tier", 9, "unknown key", "it belongs in [[group]]")],
    },
    Case {
        name: "tcp option beside the tcp table",
        text: After(4, r#"keepalive = "15s""#),
        problems: &[("listener[0].keepalive", 5, "unknown key", "it belongs in [group.tcp] or [listener.tcp]")],
    },
    Case {
        name: "key at the top of the file",
        text: After(0, "workers = 2"),
        problems: &[("workers", 1, "unknown key", "it belongs in [runtime]")],
    },
    Case {
        name: "strange key",
        text: After(4, r#""a b\n" = 1"#),
        problems: &[(
            r#"listener[0]."a b\n""#,
            5,
            "unknown key",
            "the keys here are accept_proxy, bind, datapath, groups,",
        )],
    },
];
