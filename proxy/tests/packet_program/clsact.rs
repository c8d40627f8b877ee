//! Kernels before 6.6 have no attachment that could be pinned: there the programs hang on the devices themselves.

use std::path::Path;

use landbridge::fastpath::packet::{Hook, PacketPath, Pins};
use landbridge_tests::Net;

use crate::programs::Programs;

/// What is in the directory, by name.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn filters_outlive_their_process_only_where_its_state_does() {
    if Programs::load().is_none() {
        return;
    }
    let net = Net::new(1).expect("namespaces can be made");
    let directory = tempfile::tempdir().expect("a directory can be made");
    let configuration = directory.path().join("landbridge.toml");
    let filters = |device| net.proxy.filters(device).expect("`tc` runs").len();
    let has_filters = || filters("client") > 0 && filters("target0") > 0;
    let has_none = || filters("client") == 0 && filters("target0") == 0;
    let open = || Pins::open(&configuration).expect("there is a BPF file system");
    let start = |pins| PacketPath::start(4, pins, Hook::Clsact).expect("the programs are attached");

    let path = net.proxy.enter(|| start(None));
    assert!(has_filters());
    net.proxy.enter(|| drop(path));
    assert!(has_none());

    let state = net.proxy.enter(|| {
        let pins = open();
        let state = pins.directory().to_owned();
        drop(start(Some(pins)));
        state
    });
    assert_eq!(names(&state), ["JOINTS", "LEGS", "PACKET_COUNTERS"]);
    assert!(has_filters());
    // Whoever comes next takes them over, and takes them off.
    net.proxy.enter(|| start(Some(open())).unpin());
    assert!(has_none() && !state.exists());
}

#[test]
fn with_tcx_attachments_are_pinned() {
    if Programs::load().is_none() || Hook::of_this_kernel() == Hook::Clsact {
        return;
    }
    let net = Net::new(1).expect("namespaces can be made");
    let directory = tempfile::tempdir().expect("a directory can be made");
    let configuration = directory.path().join("landbridge.toml");
    net.proxy.enter(|| {
        let pins = Pins::open(&configuration).expect("there is a BPF file system");
        let state = pins.directory().to_owned();
        let path = PacketPath::start(4, Some(pins), Hook::Tcx).expect("the programs are attached");
        let links = names(&state).into_iter().filter(|name| name.starts_with("link-")).count();
        assert_eq!(links, 2);
        path.unpin();
        assert!(!state.exists());
    });
}
