//! `docs/benchmarks.md` and its picture: the results between two marks, around which people write.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::contender::{BACKLOG, WORKERS};
use super::lab::TOKENS_PER_SECOND;
use super::report::{CONFIDENCE, Report, mark};
use super::results::{Cell, Verdict};
use super::table::Table;

const BEGIN: &str = "<!-- measured: begin (written by `cargo xtask bench --publish`) -->";
const END: &str = "<!-- measured: end -->";

/// Writes the document and the picture into `folder`; what people wrote into the document stays.
pub(crate) fn publish(folder: &Path, report: &Report, svg: &str) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join("benchmarks.md");
    let old = if path.exists() {
        Some(fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?)
    } else {
        None
    };
    let new = merge(old.as_deref(), &results(report)).with_context(|| format!("cannot update {}", path.display()))?;
    for (path, text) in [(path, new.as_str()), (folder.join("benchmarks.svg"), svg)] {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("published: {}", path.display());
    }
    Ok(())
}

/// The old text with new results in the place of the old ones.
fn merge(old: Option<&str>, results: &str) -> Result<String> {
    let results = format!("{BEGIN}\n{results}{END}");
    let Some(old) = old else { return Ok(format!("# Benchmarks\n\n{results}\n")) };
    let (Some(begin), Some(end)) = (old.find(BEGIN), old.find(END)) else {
        bail!("it has not the two lines that results go between:\n{BEGIN}\n{END}");
    };
    if end < begin {
        bail!("the line that ends the results stands before the one that begins them");
    }
    Ok(format!("{}{results}{}", &old[..begin], &old[end + END.len()..]))
}

fn results(report: &Report) -> String {
    let machine = &report.machine;
    let mut versions = Table::new(&["program", "version"]);
    for (name, version) in &report.versions {
        versions.add(vec![name.clone(), version.clone()]);
    }
    let mut workloads = Table::new(&["workload", "pairs", "what happens"]);
    for measured in &report.measured {
        let pairs = measured.rounds.len().to_string();
        workloads.add(vec![format!("`{}`", measured.name), pairs, measured.workload.describe()]);
    }
    let remarks: String = report.remarks().iter().map(|remark| format!("- {}\n", remark.replace('\n', " "))).collect();
    let remarks = if remarks.is_empty() { remarks } else { format!("\n{remarks}") };
    format!(
        "![Ratios of landbridge to its peers](benchmarks.svg)\n\n\
         {} of {} in {} s: {}, {} CPUs, {} GiB; {}, {}; {:.2} CPUs busy before.\n\n\
         Three network namespaces, `client - proxy - targets`, joined by veth pairs with the kernel's default offloads; \
         receive packet steering is {}. Every proxy has {WORKERS} workers, a backlog of {BACKLOG} and TCP_NODELAY. Token \
         streams carry {TOKENS_PER_SECOND} tokens/s each.\n\n\
         {versions}\n\
         ## What is required\n\n\
         landbridge with its default configuration against HAProxy with `option splice-auto`, and against plain forwarding: \
         median of the pairs. What loses, and why, is said below.\n\n\
         {required}\n\
         ## All ratios\n\n\
         landbridge's value divided by the peer's, in pairs of runs that followed each other: their median and its \
         {CONFIDENCE}. `A/A` is how far from 1 that interval is between two runs of landbridge that followed each other, as a \
         factor; inside it, or where a ratio's own interval has 1 in it (`~`), nothing is claimed. **Bold** cells are lost. Where a pair has no ratio, for a cost is not above the floor's, both medians stand, \
         ours first. `ours` is landbridge's median, for scale only: numbers of two measurements cannot be compared. CPU is the busy time of the whole machine, \
         for 1,000 requests or tokens; own CPU is that minus the same load over plain IP forwarding (`forward`), for bulk \
         per GB. Memory of the kernel is slab and TCP memory, also minus that of forwarding.\n\n\
         {ratios}{remarks}\n\
         {workloads}\n",
        report.command,
        report.date,
        report.seconds,
        machine.cpu,
        machine.cpus,
        machine.memory_gib,
        machine.system,
        machine.kernel,
        machine.busy_before,
        report.steering,
        versions = versions.markdown(),
        required = report.requirements().markdown(),
        ratios = report.ratios(bold_losses).markdown(),
        workloads = workloads.markdown(),
    )
}

fn bold_losses(cell: &Cell) -> String {
    match cell.verdict {
        Verdict::Worse => format!("**{}**", mark(cell)),
        Verdict::Better | Verdict::Same | Verdict::Unknown => mark(cell),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_stays() {
        let first = merge(None, "one\n").unwrap();
        let edited = format!("Before.\n{first}After.\n");
        let second = merge(Some(&edited), "two\n").unwrap();
        assert!(second.starts_with("Before.\n# Benchmarks") && second.ends_with("After.\n"), "{second}");
        assert!(second.contains("two") && !second.contains("one"), "{second}");
    }

    #[test]
    fn a_document_without_the_marks_is_left_alone() {
        assert!(merge(Some("# Benchmarks\n"), "one\n").is_err());
        assert!(merge(Some(&format!("{END}\n{BEGIN}\n")), "one\n").is_err());
    }
}
