//! `shoal up`: the whole cluster in one process, as a newcomer meets it.

use std::time::Duration;

use shoal_tests::{Finished, run};

fn up_once(data: &std::path::Path) -> Finished {
    let data = data.display().to_string();
    run(&["up", "--once", "--data", &data, "--listen", "127.0.0.1:0"], &[], Duration::from_secs(120))
}

#[test]
fn the_first_start_imports_and_the_second_finds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = up_once(folder.path());
    println!("{}\n{}", first.stdout, first.stderr);
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert!(first.stdout.contains("1.000"), "the recall is told: {}", first.stdout);
    assert!(first.stderr.contains("loaded"), "the first start loads the sample: {}", first.stderr);

    let second = up_once(folder.path());
    println!("{}\n{}", second.stdout, second.stderr);
    assert_eq!(second.code, 0, "{}", second.stderr);
    assert!(second.stdout.contains("1.000"), "the recall is told: {}", second.stdout);
    assert!(second.stderr.contains("is there with"), "the second start says that the data is there: {}", second.stderr);
    assert!(!second.stderr.contains("loaded"), "the second start loads nothing: {}", second.stderr);
}

#[test]
fn a_data_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().display().to_string();
    let arguments = ["up", "--data", &data, "--listen", "127.0.0.1:0", "--nodes", "1"];
    let mut first = shoal_tests::Process::start("up", &arguments, &[]);
    first.wait_for_line("Ctrl-C", Duration::from_secs(120));
    let second = up_once(folder.path());
    assert_ne!(second.code, 0, "two clusters cannot share a folder");
    assert!(second.stderr.contains("in use"), "the error says why: {}", second.stderr);
    let status = first.terminate(Duration::from_secs(30));
    assert!(status.success(), "Ctrl-C is an orderly end: {status}");
}
