//! Names and addresses that break their rules.

use crate::Case;
use crate::Text::{After, Line};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "empty name",
        text: Line(2, r#"name = """#),
        problems: &[("listener[0].name", 2, "the name is empty", "use 1 to 64 characters")],
    },
    Case {
        name: "name with a blank",
        text: Line(2, r#"name = "my listener""#),
        problems: &[("listener[0].name", 2, r#""my listener" contains " ""#, "use letters, digits and . _ : [ ] -")],
    },
    Case {
        name: "long name",
        text: Line(2, r#"name = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx""#),
        problems: &[(
            "listener[0].name",
            2,
            r#""xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"#,
            "use at most 64",
        )],
    },
    Case {
        name: "target name with a slash",
        text: After(8, r#"name = "a/b""#),
        problems: &[("group[0].target[0].name", 9, r#""a/b" contains "/""#, "use letters, digits and . _ : [ ] -")],
    },
    Case {
        name: "long device name",
        text: After(
            6,
            r#"[group.tcp]
interface = "netbird-to-onprem""#,
        ),
        problems: &[("group[0].tcp.interface", 8, r#""netbird-to-onprem" has 17 characters"#, "use at most 15")],
    },
    Case {
        name: "device name with a blank",
        text: After(
            6,
            r#"[group.tcp]
interface = "wt 0""#,
        ),
        problems: &[(
            "group[0].tcp.interface",
            8,
            r#""wt 0" cannot be the name of a device"#,
            r#"give the name that `ip link` shows, such as "wt0""#,
        )],
    },
    Case {
        name: "empty congestion control",
        text: After(
            4,
            r#"[listener.tcp]
congestion = """#,
        ),
        problems: &[("listener[0].tcp.congestion", 6, "the name is empty", "use 1 to 15 characters")],
    },
    Case {
        name: "long congestion control",
        text: After(
            4,
            r#"[listener.tcp]
congestion = "bottleneck-bandwidth""#,
        ),
        problems: &[("listener[0].tcp.congestion", 6, r#""bottleneck-bandwidth" has 20 characters"#, "use at most 15")],
    },
    Case {
        name: "balance, near",
        text: After(6, r#"balance = "least-conections""#),
        problems: &[(
            "group[0].balance",
            7,
            r#""least-conections" is not a choice"#,
            r#"did you mean "least-connections"? The choices are"#,
        )],
    },
    Case {
        name: "balance, far",
        text: After(6, r#"balance = "fastest""#),
        problems: &[(
            "group[0].balance",
            7,
            r#""fastest" is not a choice"#,
            r#"use one of "weighted-round-robin", "least-connections","#,
        )],
    },
    Case {
        name: "datapath unknown",
        text: After(4, r#"datapath = "kernel""#),
        problems: &[(
            "listener[0].datapath",
            5,
            r#""kernel" is not a choice"#,
            r#"use one of "auto", "packet", "sockmap", "splice", "copy""#,
        )],
    },
    Case {
        name: "PROXY version unknown",
        text: After(6, r#"send_proxy = "v3""#),
        problems: &[("group[0].send_proxy", 7, r#""v3" is not a choice"#, r#"use one of "off", "v1", "v2""#)],
    },
    Case {
        name: "PROXY version any is not sent",
        text: After(6, r#"send_proxy = "any""#),
        problems: &[("group[0].send_proxy", 7, r#""any" is not a choice"#, r#"use one of "off", "v1", "v2""#)],
    },
    Case {
        name: "bind without port",
        text: Line(3, r#"bind = ["0.0.0.0"]"#),
        problems: &[("listener[0].bind[0]", 3, r#""0.0.0.0" has no port"#, r#"write "0.0.0.0:8000""#)],
    },
    Case {
        name: "bind to port 0",
        text: Line(3, r#"bind = ["0.0.0.0:0"]"#),
        problems: &[("listener[0].bind[0]", 3, r#""0.0.0.0:0" has port 0"#, "use a port from 1 to 65535")],
    },
    Case {
        name: "bind to a large port",
        text: Line(3, r#"bind = ["0.0.0.0:80000"]"#),
        problems: &[("listener[0].bind[0]", 3, r#""0.0.0.0:80000" has no valid port"#, "use a port from 1 to 65535")],
    },
    Case {
        name: "bind to a port only",
        text: Line(3, r#"bind = [":8000"]"#),
        problems: &[(
            "listener[0].bind[0]",
            3,
            r#"":8000" has no IP address"#,
            r#"write "0.0.0.0:8000" for every IPv4 address or "[::]:8000" for"#,
        )],
    },
    Case {
        name: "bind to a host name",
        text: Line(3, r#"bind = ["localhost:8000"]"#),
        problems: &[(
            "listener[0].bind[0]",
            3,
            r#""localhost:8000" is a host name"#,
            r#"bind to an IP address, such as "0.0.0.0:8000" or "[::]:8000""#,
        )],
    },
    Case {
        name: "bind without brackets",
        text: Line(3, r#"bind = ["::1:8000"]"#),
        problems: &[(
            "listener[0].bind[0]",
            3,
            r#""::1:8000" has an IPv6 address without brackets"#,
            r#"write "[::1]:8000""#,
        )],
    },
    Case {
        name: "bind to a zone",
        text: Line(3, r#"bind = ["[fe80::1%2]:8000"]"#),
        problems: &[(
            "listener[0].bind[0]",
            3,
            r#""[fe80::1%2]:8000" has a zone"#,
            "leave out the % part and name the device in tcp.interface",
        )],
    },
    Case {
        name: "bind to nothing",
        text: Line(3, "bind = []"),
        problems: &[("listener[0].bind", 3, "the list is empty", r#"give at least one, such as ["0.0.0.0:8000"]"#)],
    },
    Case {
        name: "several lines of addresses",
        text: Line(
            3,
            r#"bind = [
  "0.0.0.0:8000",
  "0.0.0.0:0",
  "::",
]"#,
        ),
        problems: &[
            ("listener[0].bind[1]", 5, r#""0.0.0.0:0" has port 0"#, "use a port from 1 to 65535"),
            ("listener[0].bind[2]", 6, r#""::" has an IPv6 address without brackets"#, r#"write "[::]:8000""#),
        ],
    },
    Case {
        name: "target name twice, and a DNS server by name",
        text: After(
            8,
            r#"[[group.target]]
address = "gpu-1.netbird.cloud:8000"
[[group.target]]
address = "gpu-1.netbird.cloud:8000"
[dns]
servers = ["dns.example:53"]
min_ttl = "10s"
max_ttl = "5s""#,
        ),
        problems: &[
            (
                "group[0].target[2].address",
                12,
                "gpu-1.netbird.cloud:8000 is already given on line 10",
                "remove one of them",
            ),
            ("dns.servers[0]", 14, r#""dns.example:53" is itself a name"#, "give the IP address and port"),
            ("dns.max_ttl", 16, "is shorter than min_ttl", "use at least min_ttl"),
        ],
    },
    Case {
        name: "target is a URL",
        text: Line(8, r#"address = "http://10.0.0.1:80""#),
        problems: &[(
            "group[0].target[0].address",
            8,
            r#""http://10.0.0.1:80" is a URL"#,
            r#"write address and port only, such as "10.0.0.1:8000""#,
        )],
    },
    Case {
        name: "target is every address",
        text: Line(8, r#"address = "0.0.0.0:80""#),
        problems: &[("group[0].target[0].address", 8, r#""0.0.0.0:80" stands for every address"#, "give one address")],
    },
    Case {
        name: "target is multicast",
        text: Line(8, r#"address = "239.0.0.1:80""#),
        problems: &[(
            "group[0].target[0].address",
            8,
            r#""239.0.0.1:80" is a multicast or broadcast address"#,
            "TCP needs the address of one machine",
        )],
    },
    Case {
        name: "target is IPv4 in IPv6 form",
        text: Line(8, r#"address = "[::ffff:10.0.0.1]:80""#),
        problems: &[(
            "group[0].target[0].address",
            8,
            r#""[::ffff:10.0.0.1]:80" is an IPv4 address in IPv6 form"#,
            "write \"10.0.0.1:80\"",
        )],
    },
    Case {
        name: "target without port",
        text: Line(8, r#"address = "[fd00::1]""#),
        problems: &[("group[0].target[0].address", 8, r#""[fd00::1]" has no port"#, r#"write "[fd00::1]:8000""#)],
    },
    Case {
        name: "source with a port",
        text: After(
            6,
            r#"[group.tcp]
source = "10.0.0.2:0""#,
        ),
        problems: &[(
            "group[0].tcp.source",
            8,
            r#""10.0.0.2:0" is not an IP address"#,
            "give an IP address of this machine without port, such as",
        )],
    },
    Case {
        name: "source of another family",
        text: After(
            6,
            r#"[group.tcp]
source = "fd00::2""#,
        ),
        problems: &[(
            "group[0].tcp.source",
            8,
            "fd00::2 is IPv6 and cannot connect to target 10.0.0.1:80",
            "give an IPv4 source, or put the IPv4 targets into a group of",
        )],
    },
    Case {
        name: "admin address malformed",
        text: After(
            0,
            r#"[admin]
listen = "9900""#,
        ),
        problems: &[(
            "admin.listen",
            2,
            r#""9900" is not an address"#,
            r#"write IP address and port, such as "10.0.0.1:8000" or"#,
        )],
    },
    Case {
        name: "admin switched off by a boolean",
        text: After(
            0,
            r#"[admin]
listen = false"#,
        ),
        problems: &[(
            "admin.listen",
            2,
            "false is a boolean, not a string",
            r#"write a string in quotes, such as "127.0.0.1:9900""#,
        )],
    },
];
