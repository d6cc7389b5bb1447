//! Files that are what they were, files that are not, and files that were made to hurt.

use std::fs;
use std::sync::LazyLock;

use proptest::prelude::*;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use shoal_model::{Classify, ErrorKind};
use tempfile::TempDir;

use super::header::{HEADER_BYTES, Header, Section};
use super::*;

const A: Tag = *b"a       ";
const B: Tag = *b"b       ";
const C: Tag = *b"c       ";

type Contents = Vec<(Tag, Align, Vec<u8>)>;

fn write(mut writer: ImageWriter, contents: &Contents, piece_bytes: usize, residency: Residency) -> Image {
    for (tag, align, bytes) in contents {
        writer.begin_section(*tag, *align).expect("a section is begun");
        bytes.chunks(piece_bytes).for_each(|piece| writer.write(piece).expect("a section is written"));
    }
    writer.finish(b"parameters", residency).expect("an image is finished")
}

fn in_memory(contents: &Contents) -> Image {
    write(ImageWriter::in_memory("memory"), contents, usize::MAX, Residency::Resident)
}

fn random(rng: &mut StdRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn small() -> Contents {
    let mut rng = StdRng::seed_from_u64(7);
    vec![(A, Align::Page, random(&mut rng, 100)), (B, Align::Page, vec![]), (C, Align::Page, random(&mut rng, 5_000))]
}

/// Bytes of a small image; everything about files is as true of it as of a large one.
static SMALL: LazyLock<Vec<u8>> = LazyLock::new(|| in_memory(&small()).bytes().to_vec());

fn load(bytes: &[u8]) -> Result<Image, FileError> {
    Image::from_bytes("bytes", bytes, Verify::Everything)
}

fn fault(result: Result<Image, FileError>) -> Fault {
    result.expect_err("a bad file is refused").fault
}

/// Makes the checksum of the header right again, as an attacker would.
fn seal_header(bytes: &mut [u8]) {
    let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[..HEADER_BYTES - 8]);
    bytes[HEADER_BYTES - 8..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

/// Makes all checksums right again, for a file that ends with `blocks` checksums of blocks and one of its own.
fn seal(bytes: &mut [u8], blocks: usize) {
    seal_header(bytes);
    let body_end = bytes.len() - 8 * (blocks + 1);
    let (head, sums) = bytes.split_at_mut(body_end);
    for (block, sum) in head[HEADER_BYTES..].chunks(BLOCK_BYTES).zip(sums.chunks_mut(8)) {
        sum.copy_from_slice(&sums::of_block(block));
    }
    let checksum = sums::of_file(&head[..HEADER_BYTES], &sums[..8 * blocks]);
    sums[8 * blocks..].copy_from_slice(&checksum.to_le_bytes());
}

fn assert_holds(image: &Image, contents: &Contents, name: &str) {
    assert_eq!(image.parameters(), b"parameters", "{name}: parameters");
    assert!(image.tags().eq(contents.iter().map(|(tag, ..)| *tag)), "{name}: tags in their order");
    for (tag, align, bytes) in contents {
        let section = image.section(*tag).expect("a section that was written is there");
        assert!(section == bytes, "{name}: section {} reads back", tag.escape_ascii());
        assert!(section.as_ptr().addr().is_multiple_of(4 << 10), "{name}: sections start at pages");
        let offset = section.as_ptr().addr() - image.bytes().as_ptr().addr();
        assert!((offset as u64).is_multiple_of(align.bytes()), "{name}: sections start where they asked to");
        if *align == Align::Huge && image.residency() == Residency::Resident {
            assert!(
                section.as_ptr().addr().is_multiple_of(memory::HUGE_BYTES),
                "{name}: huge pages from the first byte"
            );
        }
    }
    image.verify().expect("what was written verifies");
}

#[test]
fn what_is_written_reads_back_in_every_way() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut section = |tag, align, len| (tag, align, random(&mut rng, len));
    let block = BLOCK_BYTES;
    for (name, contents) in [
        ("nothing", vec![]),
        ("an empty section", vec![section(A, Align::Page, 0)]),
        ("a byte", vec![section(A, Align::Page, 1)]),
        ("a block, less the page of the next", vec![section(A, Align::Page, block)]),
        ("a block and a byte", vec![section(A, Align::Page, block + 1), section(B, Align::Page, 3)]),
        ("several", small()),
        ("huge", vec![section(A, Align::Page, 9), section(B, Align::Huge, 3 * block + 5), section(C, Align::Huge, 1)]),
        ("sixteen", (0..16).map(|i| section([i; 8], Align::Page, 5_000)).collect()),
    ] {
        let folder = TempDir::new().expect("a folder");
        let memory = in_memory(&contents);
        assert_holds(&memory, &contents, name);
        for piece_bytes in [1_000, block, usize::MAX] {
            let writer = ImageWriter::create(folder.path(), "segment").expect("a writer");
            let image = write(writer, &contents, piece_bytes, Residency::Mapped);
            assert_holds(&image, &contents, name);
            assert!(image.bytes() == memory.bytes(), "{name}: file and memory hold the same bytes");
            assert_eq!(image.checksum(), memory.checksum(), "{name}: and so have one checksum");
        }
        for (residency, verify) in [
            (Residency::Mapped, Verify::Header),
            (Residency::Mapped, Verify::Everything),
            (Residency::Resident, Verify::Everything),
        ] {
            let how = Open { residency, verify, checksum: Some(memory.checksum()), prefetch: true };
            let image = Image::open(&folder.path().join("segment"), &how).expect("a sound file is opened");
            assert_eq!(image.residency(), residency, "{name}");
            assert_holds(&image, &contents, name);
        }
    }
}

#[test]
fn a_section_is_a_table_if_it_divides_into_items() {
    let image = in_memory(&vec![(A, Align::Page, [1_u32, 2, 3].map(u32::to_le_bytes).concat())]);
    assert_eq!(image.table::<u32>(A).expect("three numbers"), [1, 2, 3]);
    assert_eq!(image.table::<u8>(A).expect("twelve bytes").len(), 12);
    let error = |result: Result<&[u64], FileError>| result.expect_err("no table").to_string();
    let want = "segment file memory: section \"a       \" of 12 bytes does not divide into items of 8; rebuild it";
    assert_eq!(error(image.table(A)), want);
    assert_eq!(error(image.table(B)), "segment file memory: has no section \"b       \"; rebuild it");
    assert!(image.section(B).is_none());
}

#[test]
fn the_format_is_that_of_stored_files() {
    let image = in_memory(&vec![(A, Align::Page, b"content".to_vec())]);
    let bytes = image.bytes();
    assert_eq!(bytes.len(), 4_096 + 4_096 + 16, "header, a page, two checksums");
    assert_eq!(bytes[..16], *b"SHOALSEG\x03\0\0\0\x04\x03\x02\x01");
    assert_eq!(bytes[16..32], *b"\x10\x20\0\0\0\0\0\0\x01\0\0\0\x0a\0\0\0", "length, sections, parameters");
    assert_eq!(bytes[32..56], *b"a       \0\x10\0\0\0\0\0\0\x07\0\0\0\0\0\0\0", "tag, offset, length");
    assert_eq!(bytes[416..426], *b"parameters");
    assert_eq!(bytes[4_096..4_103], *b"content");
    assert_eq!(image.checksum(), CHECKSUM, "a file written today is opened by every later build of this version");
}

/// Computed by another implementation of the layout in the header of `file`, and of XXH3.
const CHECKSUM: u64 = 0x442b_44a2_59ef_d5eb;

#[test]
fn each_fault_is_told_by_its_name() {
    let whole = &*SMALL;
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let version = {
        let mut bytes = flipped(9);
        seal_header(&mut bytes);
        bytes
    };
    let len = whole.len();
    for (name, bytes, want) in [
        ("empty", vec![], "is truncated to 0 of 4096 bytes; fetch or rebuild it".to_owned()),
        ("foreign", b"\x7fELF and more".to_vec(), "is not a segment".into()),
        ("zeros", vec![0; 10_000], "is not a segment".into()),
        ("half a header", whole[..100].to_vec(), "is truncated to 100 of 4096 bytes; fetch or rebuild it".into()),
        ("half a file", whole[..6_000].to_vec(), format!("is truncated to 6000 of {len} bytes; fetch or rebuild it")),
        (
            "two files",
            [&whole[..], whole].concat(),
            format!("has {} bytes instead of {len}; fetch or rebuild it", 2 * len),
        ),
        ("version", version, "has format version 259, this build reads 3; rebuild it".into()),
        ("damaged version", flipped(8), "header is damaged; fetch or rebuild it".into()),
        ("damaged parameters", flipped(416), "header is damaged; fetch or rebuild it".into()),
        (
            "damaged section",
            flipped(HEADER_BYTES),
            "block 0, the 256 KiB from byte 4096, is damaged; fetch or rebuild it".into(),
        ),
        ("damaged checksum", flipped(len - 1), "checksums are damaged; fetch or rebuild it".into()),
    ] {
        let error = load(&bytes).expect_err("a bad file is refused");
        assert_eq!(error.to_string(), format!("segment file bytes: {want}"), "{name}");
        assert!(error.is_bad_file(), "{name}: is to be set aside");
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("segment");
        fs::write(&path, &bytes).expect("a file");
        for residency in [Residency::Mapped, Residency::Resident] {
            let error = Image::open(&path, &Open { residency, ..Open::default() }).expect_err("a bad file is refused");
            assert_eq!(error.fault.to_string(), want, "{name}, {residency:?}");
        }
    }
}

#[test]
fn damage_is_told_by_its_block() {
    let contents = vec![(A, Align::Page, random(&mut StdRng::seed_from_u64(3), 3 * BLOCK_BYTES))];
    let mut bytes = in_memory(&contents).bytes().to_vec();
    bytes[HEADER_BYTES + 2 * BLOCK_BYTES] ^= 0x80;
    let (want_block, want_offset) = (2, (HEADER_BYTES + 2 * BLOCK_BYTES) as u64);
    let is_told = |fault: &Fault| matches!(*fault, Fault::Damaged { block, offset } if (block, offset) == (want_block, want_offset));
    assert!(is_told(&fault(load(&bytes))), "opening names the block");
    let image = Image::from_bytes("bytes", &bytes, Verify::Header).expect("the header is sound");
    assert_eq!(image.blocks(), 3);
    assert!(is_told(&image.verify().expect_err("scrubbing finds it").fault));
    let bad: Vec<usize> = (0..3).filter(|number| image.verify_block(*number).is_err()).collect();
    assert_eq!(bad, [2], "block by block, too");
}

#[test]
fn another_file_than_the_one_meant_is_refused() {
    let folder = TempDir::new().expect("a folder");
    let image = write(ImageWriter::create(folder.path(), "s").expect("a writer"), &small(), 9, Residency::Mapped);
    let how = Open { checksum: Some(image.checksum() ^ 1), ..Open::default() };
    let fault = fault(Image::open(image.path(), &how));
    assert!(matches!(fault, Fault::Unexpected { want, got } if want == got ^ 1), "{fault}");
}

#[test]
fn every_flipped_bit_is_refused() {
    let mut bytes = SMALL.clone();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            // What loading does, but for the copy.
            assert!(load_in_place(&bytes).is_err(), "bit {bit} of byte {at} of {} passed", bytes.len());
            bytes[at] ^= 1 << bit;
        }
        // Loading as such, for one bit of each byte.
        if at % 7 == 0 {
            bytes[at] ^= 1;
            assert!(load(&bytes).is_err(), "bit 0 of byte {at} of {} passed", bytes.len());
            bytes[at] ^= 1;
        }
    }
    load(&bytes).expect("without a flip it is sound");
}

/// Opens bytes where they are. They are looked at as [`Image::new`] does.
fn load_in_place(bytes: &[u8]) -> Result<(), Fault> {
    let (header, _) = image::inspect(bytes, None)?;
    let body = header.body();
    let sums = sums::Sums::new(&bytes[body.end..]);
    let mut blocks = bytes[body].chunks(BLOCK_BYTES).enumerate();
    match blocks.find(|(number, block)| !sums.hold_for(*number, block)) {
        Some((block, _)) => Err(Fault::Damaged { block, offset: 0 }),
        None => Ok(()),
    }
}

#[test]
fn every_truncation_is_refused() {
    let whole = &*SMALL;
    for len in 0..whole.len() {
        let fault = load_in_place(&whole[..len]).expect_err("a truncated file is refused");
        assert!(matches!(fault, Fault::Truncated { got, .. } if got == len as u64), "{len} bytes: {fault}");
    }
}

fn section(tag: Tag, offset: u64, length: u64) -> Section {
    Section { tag, offset, length }
}

#[test]
fn tables_that_break_a_rule_are_refused_whoever_sealed_them() {
    let page = HEADER_BYTES as u64;
    let huge = u64::MAX - u64::MAX % page;
    for (name, sections) in [
        ("within the header", vec![section(A, 0, 10)]),
        ("not aligned", vec![section(A, page + 64, 10)]),
        ("overlapping", vec![section(A, page, page + 1), section(B, 2 * page, 10)]),
        ("one in the other", vec![section(A, page, 3 * page), section(B, 2 * page, 10)]),
        ("out of order", vec![section(A, 2 * page, 10), section(B, page, 10)]),
        ("a tag twice", vec![section(A, page, 10), section(A, 2 * page, 10)]),
        ("end beyond 64 bits", vec![section(A, huge, page)]),
        ("rounded beyond 64 bits", vec![section(A, page, u64::MAX - page - 1)]),
        ("out of bounds", vec![section(A, page, 100_000)]),
        ("far out of bounds", vec![section(A, 1 << 62, 1 << 20)]),
        ("shorter than the file", vec![section(A, page, 1)]),
    ] {
        let mut bytes = SMALL.clone();
        bytes[24..28].copy_from_slice(&(sections.len() as u32).to_le_bytes());
        for (at, section) in (32..).step_by(24).zip(&sections) {
            bytes[at..at + 8].copy_from_slice(&section.tag);
            bytes[at + 8..at + 16].copy_from_slice(&section.offset.to_le_bytes());
            bytes[at + 16..at + 24].copy_from_slice(&section.length.to_le_bytes());
        }
        seal(&mut bytes, 1);
        let fault = fault(load(&bytes));
        assert!(matches!(fault, Fault::HeaderMalformed { .. }), "{name}: {fault}");
    }
}

#[test]
fn a_header_of_another_form_is_refused_whoever_sealed_it() {
    for (name, at, to) in [
        ("byte order", 12, 5),
        ("length", 16, 0xff),
        ("seventeen sections", 24, 17),
        ("2^24 sections", 27, 1),
        ("parameters too long", 29, 5),
        ("2^24 bytes of parameters", 31, 1),
        ("a section too few", 24, 2),
        ("bytes behind the parameters", 426, 1),
        ("bytes behind the table", 32 + 3 * 24, 1),
        ("bytes behind everything", 4_000, 1),
    ] {
        let mut bytes = SMALL.clone();
        bytes[at] = to;
        seal(&mut bytes, 1);
        let fault = fault(load(&bytes));
        assert!(matches!(fault, Fault::HeaderMalformed { .. }), "{name}: {fault}");
    }
}

#[test]
fn a_sparse_file_of_terabytes_is_refused_without_memory_for_it() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("segment");
    fs::write(&path, &*SMALL).expect("a file");
    fs::File::options().write(true).open(&path).expect("the file").set_len(1 << 40).expect("a hole");
    for residency in [Residency::Mapped, Residency::Resident] {
        let fault = fault(Image::open(&path, &Open { residency, ..Open::default() }));
        assert!(matches!(fault, Fault::Overlong { got, .. } if got == 1 << 40), "{residency:?}: {fault}");
    }
}

#[test]
fn only_a_finished_file_has_its_name() {
    let folder = TempDir::new().expect("a folder");
    let names = || {
        let entries = fs::read_dir(folder.path()).expect("the folder");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    let mut writer = ImageWriter::create(folder.path(), "s").expect("a writer");
    writer.begin_section(A, Align::Page).expect("a section");
    writer.write(&vec![1; 2 * BLOCK_BYTES]).expect("room");
    assert_eq!(names(), ["s.tmp"], "until it is whole");
    let second = ImageWriter::create(folder.path(), "s").expect_err("two writers of one file");
    assert_eq!(second.kind(), ErrorKind::Internal, "{second}");
    assert_eq!(names(), ["s.tmp"], "the second does not take the first one's file away");
    drop(writer);
    assert_eq!(names(), [""; 0], "an abandoned writer leaves nothing");
    let first = write(ImageWriter::create(folder.path(), "s").expect("a writer"), &small(), 99, Residency::Mapped);
    assert_eq!(names(), ["s"]);
    let other = vec![(A, Align::Page, vec![1; 10])];
    let second = write(ImageWriter::create(folder.path(), "s").expect("a writer"), &other, 99, Residency::Mapped);
    assert_holds(&first, &small(), "a file that was replaced lives on for who has it open");
    assert_holds(&second, &other, "the file that replaced it");
    fs::write(folder.path().join("t.tmp"), b"left by a crash").expect("a file");
    assert_eq!(remove_unfinished(folder.path()).expect("a folder"), 1);
    assert_eq!(names(), ["s"], "what is finished stays");
}

#[test]
fn a_resident_image_outlives_its_file() {
    let folder = TempDir::new().expect("a folder");
    let contents = vec![(A, Align::Huge, random(&mut StdRng::seed_from_u64(5), 3 << 20))];
    let writer = ImageWriter::create(folder.path(), "s").expect("a writer");
    let image = write(writer, &contents, 100_000, Residency::Resident);
    fs::write(image.path(), b"cut short and overwritten").expect("a file");
    assert_holds(&image, &contents, "a resident image touches no file");
}

#[test]
fn threads_share_images() {
    fn shared<T: Send + Sync>() {}
    shared::<Image>();
    shared::<FileError>();
}

#[test]
fn a_file_that_is_not_there_is_missing() {
    let folder = TempDir::new().expect("a folder");
    let error = Image::open(&folder.path().join("s"), &Open::default()).expect_err("no file");
    assert_eq!((error.kind(), error.is_bad_file()), (ErrorKind::NotFound, false), "{error}");
    let error = ImageWriter::create(&folder.path().join("folder"), "s").expect_err("no folder");
    assert!(matches!(error.fault, Fault::Io { .. }), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_can_be_retried_and_leaves_nothing() {
    let folder = TempDir::new().expect("a folder");
    let mut writer = ImageWriter::create(folder.path(), "s").expect("a writer");
    writer.begin_section(A, Align::Page).expect("a section");
    writer.fill_the_disk();
    let error = writer.write(&vec![1; BLOCK_BYTES]).expect_err("no room");
    assert_eq!((error.kind(), error.is_bad_file()), (ErrorKind::DiskFull, false), "{error}");
    assert!(!folder.path().join("s.tmp").exists(), "its room is free again at once");
    let error = writer.write(b"a few bytes").expect_err("a writer that failed");
    assert!(matches!(error.fault, Fault::WriterFailed), "{error}");
    let error = writer.finish(b"", Residency::Mapped).expect_err("a writer that failed");
    assert!(matches!(error.fault, Fault::WriterFailed), "{error}");
    assert!(!folder.path().join("s").exists(), "no file without its bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_are_refused(seed: u64, len in 0_usize..20_000, is_dressed: bool) {
        let mut bytes = random(&mut StdRng::seed_from_u64(seed), len);
        if is_dressed {
            let count = len.min(HEADER_BYTES);
            bytes[..count.min(32)].copy_from_slice(&SMALL[..count.min(32)]);
            if len > HEADER_BYTES {
                seal_header(&mut bytes);
            }
        }
        prop_assert!(load(&bytes).is_err());
    }

    /// Opens or not, and never reads out of bounds.
    #[test]
    fn a_sealed_header_of_any_numbers_is_survived(seed: u64, changes in 1_usize..6) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bytes = SMALL.clone();
        for _ in 0..changes {
            let at = 8 * rng.random_range(2..58);
            let number = [rng.random(), rng.random_range(0..1 << 15), rng.random_range(0..8) * 4_096, u64::MAX - 7];
            bytes[at..at + 8].copy_from_slice(&number[rng.random_range(0..4)].to_le_bytes());
        }
        seal(&mut bytes, rng.random_range(0..3));
        if let Ok(image) = load(&bytes) {
            let tags: Vec<Tag> = image.tags().collect();
            let total: usize = tags.iter().filter_map(|tag| image.section(*tag)).map(<[u8]>::len).sum();
            prop_assert!(total <= bytes.len());
        }
    }

    #[test]
    fn headers_read_back(
        parameters in prop::collection::vec(any::<u8>(), 0..=PARAMETERS_MAX_BYTES),
        shapes in prop::collection::vec((0_u64..1 << 40, 0_u64..1 << 20), 0..=SECTIONS_MAX),
    ) {
        let mut end = PAGE;
        let sections = shapes.iter().enumerate().map(|(i, (length, gap))| {
            let offset = (end + gap).next_multiple_of(PAGE);
            end = offset + length;
            section([i as u8; 8], offset, *length)
        });
        let header = Header::new(parameters, sections.collect()).expect("sections that keep the rules");
        prop_assert_eq!(Header::decode(&header.encode()).expect("what was encoded"), header);
    }
}

/// Opening a pipe waits until somebody writes to it.
#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (pipe, other) = (folder.path().join("pipe"), folder.path().join("folder"));
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is on every Unix");
    assert!(made.success());
    fs::create_dir(&other).expect("created");
    for path in [pipe, other] {
        let how = Open { residency: Residency::Mapped, verify: Verify::Everything, checksum: None, prefetch: false };
        let error = Image::open(&path, &how).expect_err("it is no file");
        assert!(matches!(error.fault, Fault::Malformed { .. }), "{error}");
        assert_eq!(error.path, path);
    }
}
