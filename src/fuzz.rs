//! What the fuzz targets in `fuzz/` call with any bytes, and the test that replays what they kept:
//! everything that reads what somebody else may have written. None of it may panic, run for ever or
//! take more memory than the bytes justify; what is wrong is an error.

use std::io::Cursor;

use crate::archive::foreign::{head, members::Members};
use crate::archive::index::Index;
use crate::archive::{table, tar};
use crate::layout::{diff, schema, show};
use crate::plan::{self, Answers};
use crate::store::catalog::{self, FileRecord};

/// A chunk of our own stream.
pub fn pax(bytes: &[u8]) {
    let mut at = 0;
    while let Ok(Some(head)) = tar::read_head(bytes, at) {
        assert_inside(&head.entry.path);
        let Some(next) = head.next(bytes) else { return };
        assert!(next > at, "the next head lies behind this one");
        at = next;
    }
}

/// An index without its compression, and a table.
pub fn index(bytes: &[u8]) {
    let pack = |name: &str| FileRecord {
        name: name.to_owned(),
        size_bytes: 1 << 20,
        blake3: String::new(),
    };
    let packs = [pack("packs/a"), pack("packs/b")];
    if let Ok(index) = Index::read(bytes, &packs) {
        for chunk in &index.chunks {
            let place = chunk.frame.place;
            assert!(place.offset + u64::from(place.len) <= 1 << 20, "it lies in its pack");
        }
        let again = index.encode().and_then(|bytes| Index::decode(&bytes, &packs));
        assert_eq!(again.ok(), Some(index));
    }
    if let Ok(rows) = table::read(bytes) {
        let mut writer = table::TableWriter::default();
        rows.iter().for_each(|row| writer.push(row));
        assert_eq!(table::read(&writer.finish()).ok(), Some(rows));
    }
}

/// A manifest without its seal, which nobody who changes one would forget.
pub fn manifest(bytes: &[u8]) {
    let _ = catalog::parse(bytes);
    if let Ok(body) = std::str::from_utf8(bytes)
        && let Ok(manifest) = catalog::parse(&catalog::sealed(body))
    {
        let again = catalog::render(&manifest).and_then(|bytes| catalog::parse(&bytes));
        assert_eq!(again.ok(), Some(manifest));
    }
}

/// A layout, and what is made of it: admins edit it by hand.
pub fn layout(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(layout) = schema::parse(text) else { return };
    let again = schema::render(&layout).and_then(|text| schema::parse(&text));
    assert_eq!(again.ok().as_ref(), Some(&layout));
    let _ = show::render_tree(&layout);
    let _ = diff::differences(&layout, &layout);
    if let Ok(plan) = plan::plan(&layout, &layout, &Answers::default()) {
        let _ = (plan.render_text(), plan.render_script());
    }
}

/// Anybody's tar archive.
pub fn foreign(bytes: &[u8]) {
    let mut members = Members::new(Cursor::new(bytes));
    let mut buffer = [0; 4096];
    while let Ok(Some(mut member)) = members.next() {
        if let Ok(head) = head::read(&mut member) {
            assert_inside(&head.entry.path);
        }
        while members.read_data(&mut buffer).is_ok_and(|got| got > 0) {}
    }
}

fn assert_inside(path: &[u8]) {
    let parts = path.split(|&b| b == b'/');
    assert!(path.is_empty() || parts.clone().all(|part| !part.is_empty() && part != b".."));
}
