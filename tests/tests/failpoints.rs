//! Every failpoint fires as a panic, as an error and as a pause, and the cluster comes back by itself each time.
//!
//! Needs the binary with failpoints: `cargo xtask check faults`. `SHOAL_FAILPOINT=NodeApply` runs those whose name begins so.

use shoal_model::failpoints::{Failpoint, Injected, arm, meet};
use shoal_tests::failpoints::{Kind, run};

#[test]
fn the_cluster_comes_back_from_each() {
    let wanted = std::env::var("SHOAL_FAILPOINT").unwrap_or_default();
    let points: Vec<Failpoint> = Failpoint::ALL.iter().copied().filter(|p| p.name().starts_with(&wanted)).collect();
    assert!(!points.is_empty(), "no failpoint is called {wanted}");
    let failures = run(&points, &Kind::ALL);
    println!("{} failpoints, {} episodes", points.len(), points.len() * Kind::ALL.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_is_wanted_at_a_point_happens_once() {
    assert!(meet(Failpoint::StorageOpen).is_ok());
    arm("StorageOpen=1*return; StorageSync=1*panic").expect("well-formed");
    assert_eq!(meet(Failpoint::StorageOpen), Err(Injected(Failpoint::StorageOpen)));
    assert!(meet(Failpoint::StorageOpen).is_ok());
    assert!(std::panic::catch_unwind(|| meet(Failpoint::StorageSync)).is_err());
    assert!(arm("NoSuchPlace=panic").is_err() && arm("StorageOpen").is_err() && arm("StorageOpen=jump").is_err());
}
