//! What does not fit together: duplicates, references, options that are not there yet; broken TOML; many at once.

use crate::Case;
use crate::Text::{After, Line, Whole};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "listener name twice",
        text: After(
            4,
            r#"[[listener]]
name = "in"
bind = ["0.0.0.0:8001"]
groups = ["a"]"#,
        ),
        problems: &[("listener[1].name", 6, r#""in" is already given on line 2"#, "give each listener its own name")],
    },
    Case {
        name: "group name twice",
        text: After(
            8,
            r#"[[group]]
name = "a"
[[group.target]]
address = "10.0.0.2:80""#,
        ),
        problems: &[("group[1].name", 10, r#""a" is already given on line 6"#, "give each group its own name")],
    },
    Case {
        name: "bind twice",
        text: Line(3, r#"bind = ["0.0.0.0:8000", "0.0.0.0:8000"]"#),
        problems: &[(
            "listener[0].bind[1]",
            3,
            "0.0.0.0:8000 is already taken by listener[0].bind[0] (line 3)",
            "use another address or port, or remove one of the two",
        )],
    },
    Case {
        name: "bind twice over listeners",
        text: After(
            4,
            r#"[[listener]]
name = "in2"
bind = ["[::]:8000", "127.0.0.1:8000"]
groups = ["a"]"#,
        ),
        problems: &[(
            "listener[1].bind[1]",
            7,
            "127.0.0.1:8000 overlaps 0.0.0.0:8000 of listener[0].bind[0]",
            "use another address or port, or remove one of the two",
        )],
    },
    Case {
        name: "wildcard after an address",
        text: Line(3, r#"bind = ["[::1]:8000", "[::]:8000"]"#),
        problems: &[(
            "listener[0].bind[1]",
            3,
            "[::]:8000 overlaps [::1]:8000 of listener[0].bind[0] (line 3)",
            "use another address or port, or remove one of the two",
        )],
    },
    Case {
        name: "bind on the default of admin",
        text: Line(3, r#"bind = ["0.0.0.0:9900"]"#),
        problems: &[(
            "listener[0].bind[0]",
            3,
            "0.0.0.0:9900 overlaps 127.0.0.1:9900 of admin.listen (its",
            "use another address or port, or remove one of the two",
        )],
    },
    Case {
        name: "bind on admin",
        text: After(
            0,
            r#"[admin]
listen = "10.0.0.9:8000""#,
        ),
        problems: &[(
            "listener[0].bind[0]",
            5,
            "0.0.0.0:8000 overlaps 10.0.0.9:8000 of admin.listen (line 2)",
            "use another address or port, or remove one of the two",
        )],
    },
    Case {
        name: "target twice",
        text: After(
            8,
            r#"[[group.target]]
address = "10.0.0.1:80""#,
        ),
        problems: &[(
            "group[0].target[1].address",
            10,
            "10.0.0.1:80 is already given on line 8",
            "remove one of them; more weight gives a target more sessions",
        )],
    },
    Case {
        name: "target name twice",
        text: After(
            8,
            r#"name = "x"
[[group.target]]
address = "10.0.0.2:80"
name = "x""#,
        ),
        problems: &[(
            "group[0].target[1].name",
            12,
            r#""x" is already given on line 9"#,
            "give each target of a group its own name",
        )],
    },
    Case {
        name: "group twice in a listener",
        text: Line(4, r#"groups = ["a", "a"]"#),
        problems: &[("listener[0].groups[1]", 4, r#""a" is already in this list (line 4)"#, "remove it")],
    },
    Case {
        name: "listener without groups",
        text: Line(4, "groups = []"),
        problems: &[("listener[0].groups", 4, "the list is empty", r#"give at least one, such as ["onprem"]"#)],
    },
    Case {
        name: "unknown group, near",
        text: Whole(
            r#"[[listener]]
name = "in"
bind = ["0.0.0.0:8000"]
groups = ["onprm"]
[[group]]
name = "onprem"
[[group.target]]
address = "10.0.0.1:80"
"#,
        ),
        problems: &[("listener[0].groups[0]", 4, r#"there is no group "onprm""#, r#"did you mean "onprem"?"#)],
    },
    Case {
        name: "unknown group, far",
        text: Line(4, r#"groups = ["a", "elsewhere"]"#),
        problems: &[("listener[0].groups[1]", 4, r#"there is no group "elsewhere""#, r#"the groups are "a""#)],
    },
    Case {
        name: "unused group",
        text: After(
            8,
            r#"[[group]]
name = "b"
[[group.target]]
address = "10.0.0.2:80""#,
        ),
        problems: &[(
            "group[1]",
            9,
            "no listener uses this group",
            r#"add "b" to the groups of a listener, or remove the group"#,
        )],
    },
    Case {
        name: "target is the listener",
        text: Line(8, r#"address = "127.0.0.1:8000""#),
        problems: &[(
            "listener[0].bind[0]",
            3,
            "target 127.0.0.1:8000 is this listener itself: its sessions",
            "give the target the address of a server",
        )],
    },
    Case {
        name: "source of another family and a target that is wrong besides",
        text: Line(7, "tcp = { source = \"fd00::2\" }\n[[group.target]]\nweight = -1"),
        problems: &[
            ("group[0].tcp.source", 7, "fd00::2 is IPv6", "give an IPv4 source"),
            ("group[0].target[0].weight", 9, "-1 is out of range", "from 0 to 65535"),
        ],
    },
    Case {
        name: "listener over IPv6 that is its own target",
        text: Whole(
            r#"[[listener]]
name = "in"
bind = ["[::]:8000"]
groups = ["a"]
[[group]]
name = "a"
target = [{ address = "10.0.0.1:80" }, { address = "[::1]:8000" }]
"#,
        ),
        problems: &[("listener[0].bind[0]", 3, "target [::1]:8000 is this listener itself", "the address of a server")],
    },
    Case {
        name: "admin socket",
        text: After(
            0,
            r#"[admin]
socket = "run/x.sock""#,
        ),
        problems: &[("admin.socket", 2, r#""run/x.sock" cannot be the path of a socket"#, "give an absolute path")],
    },
    Case {
        name: "session log",
        text: After(
            0,
            r#"[session_log]
path = "sessions.jsonl"
one_in = 0"#,
        ),
        problems: &[
            (
                "session_log.path",
                2,
                r#""sessions.jsonl" cannot be the path of the session log"#,
                "give an absolute path such as \"/var/log/landbridge/sessions.jsonl\", \"stdout\", or \"off\"",
            ),
            ("session_log.one_in", 3, "0 is out of range", "use a whole number from 1 to 1000000"),
        ],
    },
    Case {
        name: "string without quotes",
        text: After(
            4,
            r#"idle_timeout = 2s
max_connections = 0"#,
        ),
        problems: &[
            ("", 5, "invalid TOML: 2s is not a value", r#"strings stand in quotes: "2s""#),
            ("listener[0].max_connections", 6, "0 is out of range", "use a whole number from 1 to 1000000"),
        ],
    },
    Case {
        name: "key twice",
        text: After(
            6,
            r#"weight = 1
weight = 70000"#,
        ),
        problems: &[("", 8, "invalid TOML: weight is given twice", "keep one of them")],
    },
    Case {
        name: "group as a table beside a list of them",
        text: After(
            8,
            r#"[group]
name = "other""#,
        ),
        problems: &[("", 9, "invalid TOML: group is given twice", "write [[group]] each time")],
    },
    Case {
        name: "list is not closed",
        text: Line(3, r#"bind = ["0.0.0.0:8000""#),
        problems: &[("", 3, r#"invalid TOML: ["0.0.0.0:8000" is not closed"#, "close it")],
    },
    Case {
        name: "string is not closed",
        text: Line(2, r#"name = "in"#),
        problems: &[("", 2, "invalid TOML: invalid basic string", r#"expected `"`"#)],
    },
    Case {
        name: "header is not closed",
        text: Line(
            5,
            r#"[[group]
weight = 70000"#,
        ),
        problems: &[("", 5, "invalid TOML: unclosed array table", "expected `]`")],
    },
    Case {
        name: "key without a value",
        text: After(
            4,
            r#"idle_timeout =
zzz = 1"#,
        ),
        problems: &[("", 5, "invalid TOML: the key has no value", "write one behind the `=`")],
    },
    Case {
        name: "problem before and after broken syntax",
        text: Line(
            2,
            r#"name = "i n"
max_connections = 0
= 3
zzz = 1"#,
        ),
        problems: &[
            ("listener[0].name", 2, r#""i n" contains " ""#, "use letters, digits and . _ : [ ] -"),
            ("listener[0].max_connections", 3, "0 is out of range", "use a whole number from 1 to 1000000"),
            ("", 4, "invalid TOML: unquoted keys cannot be empty", "expected letters, numbers, `-`, `_`"),
        ],
    },
    Case {
        name: "not TOML at all",
        text: Whole(
            r#"hello
world
"#,
        ),
        problems: &[
            ("", 1, "invalid TOML: key with no value", "expected `=`"),
            ("", 2, "invalid TOML: key with no value", "expected `=`"),
        ],
    },
    Case {
        name: "YAML",
        text: Whole(
            r#"listener:
  - name: in
"#,
        ),
        problems: &[
            ("", 1, "invalid TOML: invalid unquoted key", "expected letters, numbers, `-`, `_`"),
            ("", 2, "invalid TOML: key with no value", "expected `=`"),
        ],
    },
    Case {
        name: "many at once",
        text: Whole(
            r#"[runtime]
workers = "4"
drain_timeout = 300
[admin]
lisen = "off"
[[listener]]
name = "in put"
bind = ["0.0.0.0:8000", "[::]:0"]
groups = ["onprem", "asw"]
datapath = "pakcet"
[listener.tcp]
keepalive = "100ms"
[[listener]]
name = "second"
bind = ["10.0.0.1:8000"]
[[group]]
name = "onprem"
tier = 70000
balance = "random"
[[group.target]]
address = "gpu-1:8000"
weight = -1
[[group.target]]
weight = 1
[[group]]
name = "aws"
[group.tcp]
source = "10.0.0.5"
interface = "a/b"
[[group.target]]
address = "[fd00::1]:8000"
"#,
        ),
        problems: &[
            ("runtime.workers", 2, r#""4" is a string, not a whole number"#, "write 4 without quotes"),
            ("runtime.drain_timeout", 3, "300 is a whole number, not a duration", r#"write "300s""#),
            ("admin.lisen", 5, "unknown key", "did you mean listen?"),
            ("listener[0].name", 7, r#""in put" contains " ""#, "use letters, digits and . _ : [ ] -"),
            ("listener[0].bind[1]", 8, r#""[::]:0" has port 0"#, "use a port from 1 to 65535"),
            ("listener[0].groups[1]", 9, r#"there is no group "asw""#, r#"did you mean "aws"?"#),
            ("listener[0].datapath", 10, r#""pakcet" is not a choice"#, r#"did you mean "packet"?"#),
            (
                "listener[0].tcp.keepalive",
                12,
                r#""100ms" is too short"#,
                r#"use a duration from "1s" to "32767s" in whole seconds, or "0s":"#,
            ),
            ("listener[1].groups", 13, "missing", r#"write groups = ["onprem"], the names of its [[group]] tables"#),
            (
                "listener[1].bind[0]",
                15,
                "10.0.0.1:8000 overlaps 0.0.0.0:8000 of listener[0].bind[0]",
                "use another address or port, or remove one of the two",
            ),
            ("group[0].tier", 18, "70000 is out of range", "use a whole number from 0 to 65535"),
            ("group[0].balance", 19, r#""random" is not a choice"#, r#"did you mean "random-two"? The choices are"#),
            ("group[0].target[0].weight", 22, "-1 is out of range", "use a whole number from 0 to 65535"),
            ("group[0].target[1].address", 23, "missing", r#"write address = "10.0.0.1:8000""#),
            (
                "group[1].tcp.source",
                28,
                "10.0.0.5 is IPv4 and cannot connect to target [fd00::1]:8000",
                "give an IPv6 source, or put the IPv6 targets into a group of",
            ),
            (
                "group[1].tcp.interface",
                29,
                r#""a/b" cannot be the name of a device"#,
                r#"give the name that `ip link` shows, such as "wt0""#,
            ),
        ],
    },
];
