use std::collections::BTreeSet;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::Tear;
use crate::cache::PAGE_BYTES;

/// A disk that is told paths.
struct Bench {
    disk: Disk,
    folder: TempDir,
}

impl Bench {
    fn new(metadata: Metadata) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::open(folder.path(), metadata).expect("open");
        Self { disk, folder }
    }

    fn place(&self, path: &str) -> Place {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        Place::new(self.disk.find(folder).expect("a folder"), OsStr::new(name))
    }

    fn create(&mut self, path: &str) -> Ino {
        let place = self.place(path);
        self.disk.create_file(place.folder, &place.name, 0o644).expect("create")
    }

    fn mkdir(&mut self, path: &str) {
        let place = self.place(path);
        self.disk.create_folder(place.folder, &place.name, 0o755).expect("create a folder");
    }

    fn rename(&mut self, from: &str, to: &str) {
        let (from, to) = (self.place(from), self.place(to));
        self.disk.rename(from, to, false).expect("rename");
    }

    fn remove(&mut self, path: &str) {
        let place = self.place(path);
        self.disk.remove_file(place.folder, &place.name).expect("remove");
    }

    fn write(&mut self, path: &str, offset: u64, data: &[u8]) {
        let ino = self.disk.find(path).expect("find");
        self.disk.write(ino, self.disk.boot, offset, data).expect("write");
    }

    fn sync(&mut self, path: &str) {
        let ino = self.disk.find(path).expect("find");
        self.disk.sync_file(ino, self.disk.boot).expect("sync");
    }

    fn sync_folder(&mut self, path: &str) {
        let ino = self.disk.find(path).expect("find");
        self.disk.sync_folder(ino, self.disk.boot).expect("sync folder");
    }

    fn read(&mut self, path: &str) -> Option<Vec<u8>> {
        let ino = self.disk.find(path).ok()?;
        let size = self.disk.attributes(ino).expect("attributes").size;
        Some(self.disk.read(ino, 0, usize::try_from(size).expect("small")).expect("read"))
    }

    fn power_loss(&mut self) -> Loss {
        self.disk.power_loss(PowerLoss::clean()).expect("power loss")
    }

    /// Every file, as processes see it.
    fn files(&mut self) -> BTreeMap<String, Vec<u8>> {
        let files = self.disk.all().into_iter().filter(|ino| !self.disk.nodes[ino].is_folder());
        let paths: Vec<String> = files.map(|ino| self.disk.path(ino)).filter(|path| !path.is_empty()).collect();
        paths.into_iter().map(|path| (path.clone(), self.read(&path).expect("a file"))).collect()
    }

    /// Every file, as the backing folder has it.
    fn backing_files(&self) -> BTreeMap<String, Vec<u8>> {
        fn visit(root: &Path, at: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
            for entry in fs::read_dir(at).expect("read").flatten().filter(|entry| entry.file_name() != NAMELESS) {
                let path = entry.path();
                if path.is_dir() {
                    visit(root, &path, files);
                } else {
                    let name = path.strip_prefix(root).expect("within").to_string_lossy().into_owned();
                    files.insert(name, fs::read(path).expect("read"));
                }
            }
        }
        let mut files = BTreeMap::new();
        visit(self.folder.path(), self.folder.path(), &mut files);
        files
    }
}

const BOTH: [Metadata; 2] = [Metadata::Journaled, Metadata::Strict];

#[test]
fn what_was_synced_is_left() {
    for metadata in BOTH {
        let mut bench = Bench::new(metadata);
        bench.create("a");
        bench.write("a", 0, b"old");
        bench.sync("a");
        bench.sync_folder("");
        bench.write("a", 1, b"new and longer");
        bench.create("b");
        assert_eq!(bench.read("a").as_deref(), Some(&b"onew and longer"[..]));
        let loss = bench.power_loss();
        assert_eq!(bench.files(), [("a".to_owned(), b"old".to_vec())].into(), "{metadata:?}");
        assert_eq!((loss.files_hit, loss.bytes_dropped, loss.changes_dropped), (1, 15, 1), "{metadata:?}");
    }
}

#[test]
fn a_folder_that_is_not_synced_loses_its_files_if_metadata_is_strict() {
    let mut bench = Bench::new(Metadata::Strict);
    bench.mkdir("d");
    bench.create("d/a");
    bench.write("d/a", 0, b"x");
    bench.sync("d/a");
    bench.power_loss();
    assert!(bench.disk.find("d").is_err(), "nobody synced the root");

    bench.mkdir("d");
    bench.create("d/a");
    bench.write("d/a", 0, b"x");
    bench.sync("d/a");
    bench.sync_folder("d");
    assert_eq!(bench.backing_files(), [].into(), "the folder of the folder is missing still");
    bench.sync_folder("");
    bench.power_loss();
    assert_eq!(bench.read("d/a").as_deref(), Some(&b"x"[..]));
}

#[test]
fn a_journal_keeps_the_order_of_names() {
    let mut bench = Bench::new(Metadata::Journaled);
    bench.create("a");
    bench.write("a", 0, b"a");
    bench.create("b");
    bench.create("c");
    bench.sync("b");
    bench.power_loss();
    let left = [("a".to_owned(), vec![]), ("b".to_owned(), vec![])];
    assert_eq!(bench.files(), left.into(), "before b but without content, and nothing after b");
}

#[test]
fn a_rename_is_undone_until_its_folder_is_synced() {
    for metadata in BOTH {
        let mut bench = Bench::new(metadata);
        for (name, content) in [("new", b"2"), ("current", b"1")] {
            bench.create(name);
            bench.write(name, 0, content);
            bench.sync(name);
        }
        bench.sync_folder("");
        bench.rename("new", "current");
        assert_eq!(bench.files(), [("current".to_owned(), b"2".to_vec())].into());
        bench.power_loss();
        assert_eq!(bench.read("current").as_deref(), Some(&b"1"[..]), "{metadata:?}");
        assert_eq!(bench.read("new").as_deref(), Some(&b"2"[..]), "{metadata:?}");

        bench.rename("new", "current");
        bench.sync_folder("");
        bench.power_loss();
        assert_eq!(bench.files(), [("current".to_owned(), b"2".to_vec())].into(), "{metadata:?}");
    }
}

#[test]
fn a_rename_out_of_a_folder_that_is_not_durable_is_a_creation() {
    let mut bench = Bench::new(Metadata::Strict);
    bench.mkdir("p");
    bench.mkdir("r");
    bench.sync_folder("");
    bench.mkdir("p/d");
    bench.create("p/d/a");
    bench.write("p/d/a", 0, b"x");
    bench.sync("p/d/a");
    bench.rename("p/d/a", "r/a");
    bench.sync_folder("r");
    let want = BTreeMap::from([("r/a".to_owned(), b"x".to_vec())]);
    assert_eq!(bench.backing_files(), want);
    bench.sync_folder("p");
    bench.power_loss();
    assert_eq!((bench.files(), bench.disk.find("p/d").is_ok()), (want, true));
}

#[test]
fn a_synced_folder_brings_what_its_names_build_on() {
    let mut bench = Bench::new(Metadata::Strict);
    bench.mkdir("d");
    bench.mkdir("e");
    bench.sync_folder("");
    for (path, content) in [("d/a", b"1"), ("d/b", b"2"), ("e/a", b"3")] {
        bench.create(path);
        bench.write(path, 0, content);
        bench.sync(path);
    }
    bench.sync_folder("e");
    assert_eq!(bench.backing_files(), [("e/a".to_owned(), b"3".to_vec())].into());
    bench.rename("d/b", "d/c");
    bench.remove("e/a");
    bench.rename("d/c", "e/a");
    bench.sync_folder("e");
    bench.power_loss();
    // All that happened to what is now e/a, and nothing else in the folder that it came from.
    assert_eq!(bench.files(), [("e/a".to_owned(), b"2".to_vec())].into());

    bench.rename("e/a", "d/x");
    bench.rename("d/x", "d/y");
    let place = bench.place("e");
    bench.disk.remove_folder(place.folder, &place.name).expect("remove");
    bench.sync_folder("");
    bench.power_loss();
    assert_eq!(bench.files(), [("d/x".to_owned(), b"2".to_vec())].into(), "the folder was emptied before it went");
}

#[test]
fn a_removed_name_that_is_used_again_is_removed_first() {
    let mut bench = Bench::new(Metadata::Strict);
    bench.mkdir("d");
    bench.mkdir("e");
    bench.create("d/a");
    bench.create("e/b");
    bench.sync_folder("");
    bench.sync_folder("d");
    bench.sync_folder("e");
    // The name d/a changes hands, and only the folder that takes part in the second change is synced.
    bench.rename("d/a", "d/old");
    bench.rename("e/b", "d/a");
    bench.sync_folder("e");
    bench.power_loss();
    assert_eq!(bench.files().into_keys().collect::<Vec<_>>(), ["d/a", "d/old"]);
}

#[test]
fn a_file_that_is_replaced_while_open_lives_on() {
    for metadata in BOTH {
        let mut bench = Bench::new(metadata);
        for (path, content) in [("a", b"1"), ("b", b"2")] {
            bench.create(path);
            bench.write(path, 0, content);
            bench.sync(path);
        }
        bench.sync_folder("");
        let replaced = bench.disk.find("b").expect("find");
        let boot = bench.disk.open_node(replaced).expect("open");
        bench.rename("a", "b");
        bench.sync_folder("");
        assert_eq!(bench.disk.read(replaced, 0, 9).expect("read"), b"2", "{metadata:?}");
        assert_eq!(bench.read("b").as_deref(), Some(&b"1"[..]), "{metadata:?}");
        bench.disk.close_node(replaced, boot).expect("close");
        assert_eq!(bench.backing_files(), [("b".to_owned(), b"1".to_vec())].into(), "{metadata:?}");
    }
}

#[test]
fn a_removed_file_comes_back_or_lives_on_while_open() {
    for metadata in BOTH {
        let mut bench = Bench::new(metadata);
        let ino = bench.create("a");
        bench.write("a", 0, b"x");
        bench.sync("a");
        bench.sync_folder("");
        bench.remove("a");
        bench.power_loss();
        assert_eq!(bench.read("a").as_deref(), Some(&b"x"[..]), "{metadata:?}");

        let boot = bench.disk.open_node(ino).expect("open");
        bench.remove("a");
        bench.sync_folder("");
        assert_eq!(bench.backing_files(), [].into());
        bench.disk.write(ino, boot, 1, b"y").expect("write");
        bench.disk.sync_file(ino, boot).expect("sync");
        assert_eq!(bench.disk.read(ino, 0, 10).expect("read"), b"xy", "{metadata:?}");
        bench.disk.close_node(ino, boot).expect("close");
        assert!(bench.disk.read(ino, 0, 10).is_err());
        assert_eq!(fs::read_dir(bench.folder.path().join(NAMELESS)).expect("read").count(), 0);
    }
}

#[test]
fn a_failed_sync_cannot_be_made_good() {
    let mut bench = Bench::new(Metadata::Journaled);
    let ino = bench.create("a");
    bench.write("a", 0, b"1");
    bench.sync("a");
    bench.write("a", 0, b"22");
    bench.disk.fail_sync(ino).expect("fail");
    bench.sync("a");
    assert_eq!(bench.read("a").as_deref(), Some(&b"22"[..]), "still read from memory");
    bench.power_loss();
    assert_eq!(bench.read("a").as_deref(), Some(&b"1\0"[..]), "the size made it, the content did not");
}

#[test]
fn handles_from_before_a_power_loss_only_read() {
    let mut bench = Bench::new(Metadata::Journaled);
    let ino = bench.create("a");
    let boot = bench.disk.open_node(ino).expect("open");
    bench.write("a", 0, b"x");
    bench.sync("a");
    bench.power_loss();
    assert!(bench.disk.write(ino, boot, 0, b"y").is_err());
    assert!(bench.disk.sync_file(ino, boot).is_err());
    assert!(bench.disk.sync_folder(ROOT, boot).is_err());
    assert_eq!(bench.disk.read(ino, 0, 10).expect("read"), b"x");
    bench.disk.close_node(ino, boot).expect("close");
}

#[test]
fn a_flip_changes_what_is_durable() {
    let mut bench = Bench::new(Metadata::Journaled);
    bench.create("a");
    bench.write("a", 0, b"abc");
    assert!(bench.disk.flip("a", 1, 0).is_err(), "not durable yet");
    bench.sync("a");
    bench.disk.flip("a", 1, 0).expect("flip");
    assert_eq!(bench.read("a").as_deref(), Some(&b"acc"[..]));
    assert!(bench.disk.flip("a", 3, 0).is_err() && bench.disk.flip("a", 0, 8).is_err());
}

#[test]
fn a_clean_end_keeps_everything_and_a_new_start_finds_it() {
    for metadata in BOTH {
        let mut bench = Bench::new(metadata);
        bench.mkdir("d");
        bench.create("d/a");
        bench.write("d/a", 5000, b"x");
        let before = bench.files();
        bench.disk.close().expect("close");
        assert!(!bench.folder.path().join(NAMELESS).exists());
        bench.disk = Disk::open(bench.folder.path(), metadata).expect("open");
        assert_eq!(bench.files(), before, "{metadata:?}");
        assert!(bench.disk.create_file(ROOT, OsStr::new(NAMELESS), 0o644).is_err(), "the name is taken");
    }
}

// Against a model: whole contents in vectors, names in maps.

/// Offsets and sizes are odd on purpose: within pages, across them, at their ends.
#[derive(Clone, Debug)]
enum Step {
    Create(usize),
    Write { file: usize, offset: usize, len: usize, fill: u8 },
    Resize { file: usize, size: usize },
    Remove(usize),
    Rename { from: usize, to: usize },
    Sync(usize),
    SyncFolder(usize),
}

const PATHS: [&str; 3] = ["a", "d/a", "d/b"];
const FOLDERS: [&str; 2] = ["", "d"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let file = 0..PATHS.len();
    let place = prop_oneof![0..3 * PAGE_BYTES, (0usize..4).prop_map(|pages| pages * PAGE_BYTES)];
    let step = prop_oneof![
        1 => file.clone().prop_map(Step::Create),
        6 => (file.clone(), place.clone(), 1..2 * PAGE_BYTES, 1..=255u8)
            .prop_map(|(file, offset, len, fill)| Step::Write { file, offset, len, fill }),
        3 => (file.clone(), place).prop_map(|(file, size)| Step::Resize { file, size }),
        1 => file.clone().prop_map(Step::Remove),
        1 => (file.clone(), file.clone()).prop_map(|(from, to)| Step::Rename { from, to }),
        4 => file.prop_map(Step::Sync),
        1 => (0..FOLDERS.len()).prop_map(Step::SyncFolder),
    ];
    // Every file is there at first: steps on one that is not do nothing.
    let creations = (0..PATHS.len()).map(Step::Create).collect::<Vec<_>>();
    prop::collection::vec(step, 1..50).prop_map(move |steps| [creations.clone(), steps].concat())
}

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// The smallest size since the last sync.
    cut: usize,
}

/// File `file` came from `from` and went to `to`.
#[derive(Clone)]
struct Renaming {
    file: usize,
    from: Option<usize>,
    to: Option<usize>,
    replaced: Option<usize>,
}

#[derive(Default)]
struct Model {
    contents: Vec<Content>,
    now: BTreeMap<usize, usize>,
    durable: BTreeMap<usize, usize>,
    journal: Vec<Renaming>,
    /// Names that were synced together with their file and not changed since, and what they then held.
    safe: BTreeMap<usize, Vec<u8>>,
}

impl Model {
    fn change(&mut self, file: usize, from: Option<usize>, to: Option<usize>) {
        let replaced = to.and_then(|to| self.now.get(&to).copied());
        let change = Renaming { file, from, to, replaced };
        rename_in(&mut self.now, &change);
        self.journal.push(change);
        from.into_iter().chain(to).for_each(|path| drop(self.safe.remove(&path)));
    }

    fn commit(&mut self, is_wanted: impl Fn(&Renaming) -> bool) {
        let count = self.journal.iter().rposition(is_wanted).map_or(0, |last| last + 1);
        for change in self.journal.drain(..count) {
            rename_in(&mut self.durable, &change);
        }
    }

    fn sync(&mut self, path: usize) {
        let file = self.now[&path];
        self.commit(|change| change.file == file || change.replaced == Some(file));
        let content = &mut self.contents[file];
        content.durable.clone_from(&content.now);
        content.cut = content.now.len();
    }

    /// Whether `left` of file `file` is one that a torn power loss may leave.
    fn allows(&self, file: usize, left: &[u8], unit: usize) -> bool {
        let content = &self.contents[file];
        let mut cut = content.durable.clone();
        cut.truncate(content.cut);
        let candidates = [&content.durable, &cut, &content.now];
        let is_unit_fine = |(place, part): (usize, &[u8])| {
            candidates.iter().any(|content| {
                let zeros = std::iter::repeat(&0);
                content.iter().skip(place * unit).chain(zeros).zip(part).all(|(want, got)| want == got)
            })
        };
        left.len() <= content.durable.len().max(content.now.len()) && left.chunks(unit).enumerate().all(is_unit_fine)
    }
}

fn rename_in(names: &mut BTreeMap<usize, usize>, change: &Renaming) {
    change.from.map(|from| names.remove(&from));
    change.to.map(|to| names.insert(to, change.file));
}

/// Does a step on both if it can be done.
fn run(bench: &mut Bench, model: &mut Model, step: &Step) {
    match *step {
        Step::Create(path) if !model.now.contains_key(&path) => {
            bench.create(PATHS[path]);
            model.contents.push(Content::default());
            model.change(model.contents.len() - 1, None, Some(path));
        }
        Step::Write { file, offset, len, fill } if model.now.contains_key(&file) => {
            bench.write(PATHS[file], offset as u64, &vec![fill; len]);
            let content = &mut model.contents[model.now[&file]].now;
            content.resize(content.len().max(offset + len), 0);
            content[offset..offset + len].fill(fill);
            model.safe.remove(&file);
        }
        Step::Resize { file, size } if model.now.contains_key(&file) => {
            let ino = bench.disk.find(PATHS[file]).expect("find");
            bench.disk.resize(ino, None, size as u64).expect("resize");
            let content = &mut model.contents[model.now[&file]];
            content.now.resize(size, 0);
            content.cut = content.cut.min(size);
            model.safe.remove(&file);
        }
        Step::Remove(path) if model.now.contains_key(&path) => {
            bench.remove(PATHS[path]);
            model.change(model.now[&path], Some(path), None);
        }
        Step::Rename { from, to } if from != to && model.now.contains_key(&from) => {
            bench.rename(PATHS[from], PATHS[to]);
            model.change(model.now[&from], Some(from), Some(to));
        }
        Step::Sync(path) if model.now.contains_key(&path) => {
            bench.sync(PATHS[path]);
            model.sync(path);
            if bench.disk.metadata == Metadata::Strict {
                bench.sync_folder(if path == 0 { "" } else { "d" });
            }
            let content = model.contents[model.now[&path]].durable.clone();
            model.safe.insert(path, content);
        }
        Step::SyncFolder(folder) => {
            bench.sync_folder(FOLDERS[folder]);
            let is_within = |path: &Option<usize>| path.is_some_and(|path| (path > 0) == (folder == 1));
            model.commit(|change| is_within(&change.from) || is_within(&change.to));
        }
        _ => {}
    }
}

fn bench_with_folder(metadata: Metadata) -> Bench {
    let mut bench = Bench::new(metadata);
    bench.mkdir("d");
    bench.sync_folder("");
    bench
}

fn by_path(names: &BTreeMap<usize, usize>, content: impl Fn(usize) -> Vec<u8>) -> BTreeMap<String, Vec<u8>> {
    names.iter().map(|(path, file)| (PATHS[*path].to_owned(), content(*file))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_clean_power_loss_leaves_what_the_last_syncs_made(steps in steps()) {
        let (mut bench, mut model) = (bench_with_folder(Metadata::Journaled), Model::default());
        for step in &steps {
            run(&mut bench, &mut model, step);
            prop_assert_eq!(bench.files(), by_path(&model.now, |file| model.contents[file].now.clone()));
        }
        let want = by_path(&model.durable, |file| model.contents[file].durable.clone());
        prop_assert_eq!(bench.backing_files(), want.clone(), "at any time");
        bench.power_loss();
        prop_assert_eq!(bench.files(), want.clone());
        prop_assert_eq!(bench.backing_files(), want);
    }

    #[test]
    fn a_torn_power_loss_leaves_old_or_new(steps in steps(), seed: u64, by_sector: bool) {
        let tear = if by_sector { Tear::Sector } else { Tear::Page };
        let (mut bench, mut model) = (bench_with_folder(Metadata::Journaled), Model::default());
        steps.iter().for_each(|step| run(&mut bench, &mut model, step));
        let loss = bench.disk.power_loss(PowerLoss::torn(seed, tear)).expect("power loss");
        let left = bench.files();
        prop_assert_eq!(&bench.backing_files(), &left);
        let kept = usize::try_from(loss.changes_kept).expect("few");
        prop_assert_eq!(kept + usize::try_from(loss.changes_dropped).expect("few"), model.journal.len());
        for change in &model.journal[..kept] {
            rename_in(&mut model.durable, change);
        }
        let names = model.durable.keys().map(|path| PATHS[*path].to_owned()).collect::<BTreeSet<_>>();
        prop_assert_eq!(left.keys().cloned().collect::<BTreeSet<_>>(), names);
        for (path, file) in &model.durable {
            prop_assert!(model.allows(*file, &left[PATHS[*path]], tear.unit_bytes()), "{}", PATHS[*path]);
        }
    }

    #[test]
    fn the_same_seed_leaves_the_same(steps in steps(), seed: u64, strict: bool) {
        let metadata = if strict { Metadata::Strict } else { Metadata::Journaled };
        let outcomes = [(); 2].map(|()| {
            let (mut bench, mut model) = (bench_with_folder(metadata), Model::default());
            steps.iter().for_each(|step| run(&mut bench, &mut model, step));
            (bench.disk.power_loss(PowerLoss::torn(seed, Tear::Sector)).expect("power loss"), bench.files())
        });
        prop_assert_eq!(&outcomes[0], &outcomes[1]);
    }

    #[test]
    fn strict_metadata_keeps_what_was_synced_with_its_folder(steps in steps(), torn: bool, seed: u64) {
        let (mut bench, mut model) = (bench_with_folder(Metadata::Strict), Model::default());
        steps.iter().for_each(|step| run(&mut bench, &mut model, step));
        let loss = if torn { PowerLoss::torn(seed, Tear::Page) } else { PowerLoss::clean() };
        bench.disk.power_loss(loss).expect("power loss");
        let left = bench.files();
        prop_assert_eq!(&bench.backing_files(), &left);
        for (path, content) in &model.safe {
            prop_assert_eq!(left.get(PATHS[*path]), Some(content), "{}", PATHS[*path]);
        }
    }
}
