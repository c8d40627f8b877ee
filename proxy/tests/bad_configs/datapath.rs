//! `[datapath]`: sizes, and limits that contradict each other.

use crate::Case;
use crate::Text::After;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "number where a size belongs",
        text: After(8, "[datapath]\nsoft_limit = 65536"),
        problems: &[("datapath.soft_limit", 10, "65536 is a whole number, not a size", r#"write "65536B""#)],
    },
    Case {
        name: "number that fits as no size",
        text: After(8, "[datapath]\nsoft_limit = 1"),
        problems: &[("datapath.soft_limit", 10, "not a size", r#"use a size from "1KiB" to "1GiB""#)],
    },
    Case {
        name: "size without a unit",
        text: After(8, "[datapath]\nbulk_limit = \"65536\""),
        problems: &[("datapath.bulk_limit", 10, r#""65536" has no unit"#, r#"write "65536B""#)],
    },
    Case {
        name: "not a size",
        text: After(8, "[datapath]\nbulk_limit = \"much\""),
        problems: &[("datapath.bulk_limit", 10, r#""much" is not a size"#, r#"such as "64KiB" or "4MiB""#)],
    },
    Case {
        name: "size out of range",
        text: After(8, "[datapath]\nsplice_size = \"100B\"\nhard_limit = \"2GiB\""),
        problems: &[
            ("datapath.splice_size", 10, r#""100B" is too small"#, r#"use a size from "1KiB" to "1MiB""#),
            ("datapath.hard_limit", 11, r#""2GiB" is too large"#, r#"use a size from "1KiB" to "1GiB""#),
        ],
    },
    Case {
        name: "soft limit above the hard one",
        text: After(8, "[datapath]\nsoft_limit = \"5MiB\""),
        problems: &[(
            "datapath",
            9,
            "hard_limit 4MiB is less than 32KiB above soft_limit 5MiB",
            "give hard_limit some times the size",
        )],
    },
    Case {
        name: "hard limit just above the soft one",
        text: After(8, "[datapath]\nsoft_limit = \"64KiB\"\nhard_limit = \"95KiB\""),
        problems: &[(
            "datapath",
            9,
            "hard_limit 95KiB is less than 32KiB above soft_limit 64KiB",
            "give hard_limit some times the size",
        )],
    },
];
