//! What goes to stdout: aligned columns for people, JSON for programs.

use std::io::{ErrorKind, Write as _};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value as Json;

use crate::args::Format;
use crate::failure::Failure;

/// Prints in the form that was asked for. A reader that went away (`| head`) is no failure.
pub(crate) fn print(
    format: Format,
    table: impl FnOnce() -> String,
    json: impl FnOnce() -> Json,
) -> Result<(), Failure> {
    let text = match format {
        Format::Table => table(),
        Format::Json => format!("{:#}\n", json()),
    };
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(format!("write to stdout: {error}"))),
        _ => Ok(()),
    }
}

/// Columns with a header, aligned; those in `right` to the right.
pub(crate) fn columns(header: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    table.add_rows(rows.into_iter().map(|row| row.into_iter().map(|cell| escaped(&cell))));
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

/// A text that a terminal only shows: what would steer it, or turn the direction of writing, is escaped.
pub(crate) fn escaped(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// [`escaped`] for each line of a text.
pub(crate) fn lines_escaped(text: &str) -> String {
    text.split('\n').map(escaped).collect::<Vec<_>>().join("\n")
}

/// A text on one line, cut to `width` characters.
pub(crate) fn cut(text: &str, width: usize) -> String {
    let mut flat: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = flat.char_indices().nth(width) {
        flat.truncate(flat[..end].char_indices().last().map_or(0, |(last, _)| last));
        flat.push('…');
    }
    flat
}

/// Bytes in the unit that suits: `1.4 GiB`.
#[allow(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn bytes(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let rows = vec![vec!["a".to_owned(), "1".to_owned()], vec!["long name".to_owned(), "1,000".to_owned()]];
        let want = "NAME       POINTS\na               1\nlong name   1,000\n";
        assert_eq!(columns(&["name", "points"], rows, &[1]), want);
    }

    #[test]
    fn nothing_stored_steers_the_terminal() {
        for (text, want) in [
            ("plain ü", "plain ü"),
            ("\u{1b}[2Jgone", "\\u{1b}[2Jgone"),
            ("a\r\nb", "a\\r\\nb"),
            ("\u{202e}txt", "\\u{202e}txt"),
        ] {
            assert_eq!(escaped(text), want);
        }
        assert_eq!(columns(&["id"], vec![vec!["a\u{7}b\n".to_owned()]], &[]), "ID\na\\u{7}b\\n\n");
        assert_eq!(lines_escaped("one\ntwo\u{1b}"), "one\ntwo\\u{1b}");
    }

    #[test]
    fn texts_are_cut_to_one_line() {
        for (text, width, want) in [
            ("short", 10, "short"),
            ("two\n lines", 20, "two lines"),
            ("exactly", 7, "exactly"),
            ("äöü-longer", 4, "äöü…"),
        ] {
            assert_eq!(cut(text, width), want);
        }
    }

    #[test]
    fn sizes_take_a_unit() {
        for (size, want) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (1 << 50, "1024.0 TiB")]
        {
            assert_eq!(bytes(size), want);
        }
    }
}
