//! Kernels before 6.6 have no attachment that could be pinned: the programs hang on the devices themselves, and nothing is
//! left behind.

use landbridge::fastpath::packet::{Hook, PacketPath, Pins};
use landbridge_tests::{Host, Net};

use crate::programs::Programs;

/// What the kernel has attached to a device of the proxy.
fn attached(proxy: &Host, arguments: &str) -> String {
    let output = proxy.command("tc").args(arguments.split_whitespace()).output().expect("`tc` runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn without_tcx_nothing_is_pinned_and_nothing_is_left() {
    if Programs::load().is_none() {
        return;
    }
    let net = Net::new(1).expect("namespaces can be made");
    let directory = tempfile::tempdir().expect("a directory can be made");
    let configuration = directory.path().join("landbridge.toml");
    let has_program =
        |device: &str| attached(&net.proxy, &format!("filter show dev {device} ingress")).contains("packet_ethernet");
    let (path, state) = net.proxy.enter(|| {
        let pins = Pins::open(&configuration).expect("there is a BPF file system");
        let state = pins.directory().to_owned();
        (PacketPath::start(4, Some(pins), Hook::Clsact).expect("the programs are attached"), state)
    });
    assert!(has_program("client") && has_program("target0"));
    assert_eq!(std::fs::read_dir(&state).map(Iterator::count).unwrap_or_default(), 0, "something is pinned");
    // So nobody may count on another process, and an upgrade has to drain.
    assert!(!path.retire());

    net.proxy.enter(|| drop(path));
    assert!(!has_program("client") && !has_program("target0"));
    // Whoever comes next finds the place free.
    net.proxy.enter(|| Pins::open(&configuration).expect("nobody holds it")).remove();
}

#[test]
fn with_tcx_attachments_are_pinned() {
    if Programs::load().is_none() || !Hook::of_this_kernel().can_be_pinned() {
        return;
    }
    let net = Net::new(1).expect("namespaces can be made");
    let directory = tempfile::tempdir().expect("a directory can be made");
    let configuration = directory.path().join("landbridge.toml");
    net.proxy.enter(|| {
        let pins = Pins::open(&configuration).expect("there is a BPF file system");
        let state = pins.directory().to_owned();
        let path = PacketPath::start(4, Some(pins), Hook::Tcx).expect("the programs are attached");
        let links = std::fs::read_dir(&state).expect("it is there").flatten();
        let links = links.filter(|entry| entry.file_name().to_string_lossy().starts_with("link-")).count();
        assert_eq!(links, 2);
        path.unpin();
        assert!(!state.exists());
    });
}
