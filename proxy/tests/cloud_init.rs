//! The configuration inside the cloud-init file of docs/aws.md.

use std::path::Path;

use landbridge::config::Config;

/// The block of text that follows `path: NAME` in `write_files`, without its indentation.
fn file(yaml: &str, name: &str) -> String {
    let after = yaml.split_once(&format!("path: {name}\n")).expect("the file is written").1;
    let block = after.split_once("content: |\n").expect("it has a content").1;
    let indented = |line: &&str| line.is_empty() || line.starts_with("      ");
    block.lines().take_while(indented).map(|line| line.trim_start_matches("      ").to_owned() + "\n").collect()
}

#[test]
fn the_configuration_in_it_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/aws/cloud-init.yaml");
    let yaml = std::fs::read_to_string(path).unwrap();
    assert!(yaml.starts_with("#cloud-config\n"), "cloud-init looks at the first line");
    let config = Config::parse(&file(&yaml, "/etc/landbridge/landbridge.toml")).unwrap();
    assert_eq!(config.groups[0].targets.len(), 2);
    assert_eq!(config.groups[0].tcp.interface.as_deref(), Some("wt0"));
}
