//! `shoal up`: the whole cluster in one process, as a newcomer meets it.

use std::time::{Duration, Instant};

use shoal_client::{Client, NewCollection};
use shoal_model::{Metric, Payload, Point, PointId};
use shoal_tests::{DataFolder, Finished, Launch, LossyDisk, free_port, run};

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

/// Waits until the console of `shoal up` shows `text`.
fn wait_for(console: &std::path::Path, text: &str) {
    let began = Instant::now();
    loop {
        let shown = std::fs::read_to_string(console).unwrap_or_default();
        if shown.contains(text) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{text:?} is not said: {shown}");
        std::thread::sleep(Duration::from_millis(50)); // polling a file; nothing is synchronised by it
    }
}

#[test]
fn a_node_that_ends_by_itself_is_started_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = match LossyDisk::mount(folder.path()) {
        Ok(disk) => DataFolder::Lossy(disk),
        Err(reason) => return println!("skipped, no lossy disk here: {reason}"),
    };
    let (data, console) = (disk.path().display().to_string(), folder.path().join("console"));
    let listen = format!("127.0.0.1:{}", free_port());
    let arguments = ["up", "--data", &data, "--listen", &listen];
    let launch = Launch { name: "up", arguments: &arguments, environment: &[], through: &[], log: Some(&console) };
    let mut up = shoal_tests::Process::launch(&launch);
    up.wait_for_line("Ctrl-C", Duration::from_secs(120));

    // A disk that fails a sync has lost what it took: the node must end, and reads back what there is when it starts.
    let lossy = disk.lossy_disk().expect("it is one");
    lossy.tell("fail fsync *node-2/*.log EIO times 1").expect("it answers");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let endpoint = format!("http://{listen}");
    let client = runtime.block_on(async { Client::connect(&[&endpoint]) }).expect("an endpoint");
    let new = NewCollection { shards: 3, replicas: 3, ..NewCollection::new("rows", 2, Metric::Euclidean) };
    // Whatever this meets, it has node-2 sync.
    let _ = runtime.block_on(client.create_collection(new));
    wait_for(&console, "node-2 has ended");
    wait_for(&console, "it is started again in 1 s");
    wait_for(&console, "node-2 runs again");

    let points =
        (0..100).map(|row| Point { id: PointId::Number(row), vector: vec![1.0, 2.0], payload: Payload::default() });
    let client = client.with_timeout(Duration::from_secs(60));
    runtime.block_on(client.upsert("rows", points.collect())).expect("all three take writes again");
    let began = Instant::now();
    while !runtime.block_on(client.status()).expect("a status").nodes.iter().all(|node| node.alive) {
        assert!(began.elapsed() < Duration::from_secs(30), "all nodes live");
    }
    let asked = Instant::now();
    let status = up.terminate(Duration::from_secs(30));
    assert!(status.success(), "it still ends in order: {status}");
    assert!(asked.elapsed() < Duration::from_secs(20), "and soon: {:?}", asked.elapsed());
}
