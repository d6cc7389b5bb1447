//! The one list of tests that every [`Store`] must pass.

use std::ops::ControlFlow;

use crate::{Batch, Store, StoreError, Table};

/// Panics at the first promise of the port that an empty `store` breaks.
#[allow(clippy::missing_panics_doc, reason = "it is a test")]
pub fn check(store: &dyn Store) {
    a_batch_is_read_back_in_order(store);
    tables_are_apart(store);
    scans_are_ordered_and_bounded(store);
    ranges_are_deleted(store);
    a_checkpoint_stays_as_it_was(store);
}

fn write(store: &dyn Store, fill: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::default();
    fill(&mut batch);
    store.write(batch).expect("write");
}

fn get(store: &dyn Store, table: Table, key: &str) -> Option<String> {
    let value = store.get(table, key.as_bytes()).expect("get")?;
    Some(String::from_utf8(value.to_vec()).expect("what was written"))
}

fn keys(store: &dyn Store, from: &str, to: &str, most: usize) -> Vec<String> {
    let mut keys = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        keys.push(String::from_utf8(key.to_vec()).expect("what was written"));
        if keys.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    store.scan(Table::Log, from.as_bytes(), to.as_bytes(), &mut visit).expect("scan");
    keys
}

fn a_batch_is_read_back_in_order(store: &dyn Store) {
    write(store, |batch| {
        batch.put(Table::Meta, "a", "1");
        batch.put(Table::Meta, "a", "2");
        batch.put(Table::Meta, "b", "1");
        batch.delete(Table::Meta, "b");
        batch.put(Table::Meta, "empty", "");
    });
    assert_eq!(get(store, Table::Meta, "a").as_deref(), Some("2"), "the later of two writes in a batch wins");
    assert_eq!(get(store, Table::Meta, "b"), None, "a delete after a put removes");
    assert_eq!(get(store, Table::Meta, "empty").as_deref(), Some(""), "an empty value is a value");
    store.sync().expect("sync");
    assert_eq!(get(store, Table::Meta, "a").as_deref(), Some("2"), "a sync changes nothing that is read");
}

fn tables_are_apart(store: &dyn Store) {
    for table in Table::ALL {
        write(store, |batch| batch.put(table, "same", table.name()));
    }
    for table in Table::ALL {
        assert_eq!(get(store, table, "same").as_deref(), Some(table.name()), "tables do not share keys");
        write(store, |batch| batch.delete(table, "same"));
    }
}

fn scans_are_ordered_and_bounded(store: &dyn Store) {
    write(store, |batch| ["d", "a", "c", "b"].iter().for_each(|key| batch.put(Table::Log, *key, "x")));
    assert_eq!(keys(store, "a", "z", 9), ["a", "b", "c", "d"], "keys come in order");
    assert_eq!(keys(store, "b", "d", 9), ["b", "c"], "the lower end belongs to a scan, the upper does not");
    assert_eq!(keys(store, "a", "z", 2), ["a", "b"], "a visitor can stop");
    assert_eq!(keys(store, "d", "a", 9), [""; 0], "a reversed range is empty");
}

fn ranges_are_deleted(store: &dyn Store) {
    write(store, |batch| {
        batch.delete_range(Table::Log, "b", "d");
        batch.put(Table::Log, "bb", "after");
    });
    assert_eq!(keys(store, "a", "z", 9), ["a", "bb", "d"], "a range delete spares its end and what comes after it");
}

fn a_checkpoint_stays_as_it_was(store: &dyn Store) {
    write(store, |batch| batch.put(Table::Meta, "kept", "before"));
    let checkpoint = store.checkpoint().expect("checkpoint");
    write(store, |batch| {
        batch.put(Table::Meta, "kept", "after");
        batch.put(Table::Meta, "new", "after");
    });
    assert_eq!(get(&*checkpoint, Table::Meta, "kept").as_deref(), Some("before"), "later writes do not reach it");
    assert_eq!(get(&*checkpoint, Table::Meta, "new"), None, "nor what is new");
    assert_eq!(get(store, Table::Meta, "kept").as_deref(), Some("after"), "the store itself goes on");
    assert!(matches!(checkpoint.write(Batch::default()), Err(StoreError::ReadOnly)), "it is not written to");
    let other = store.checkpoint().expect("another beside it");
    drop(checkpoint);
    assert_eq!(get(&*other, Table::Meta, "kept").as_deref(), Some("after"), "each is of its own moment");
}
