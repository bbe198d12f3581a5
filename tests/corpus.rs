//! What the fuzzers in `fuzz/` kept: the readers live through all of it.

use std::path::Path;

type Target = (&'static str, fn(&[u8]));

#[test]
fn what_the_fuzzers_kept_is_read_without_harm() {
    let targets: [Target; 5] = [
        ("pax", rr::fuzz::pax),
        ("index", rr::fuzz::index),
        ("manifest", rr::fuzz::manifest),
        ("layout", rr::fuzz::layout),
        ("foreign", rr::fuzz::foreign),
    ];
    for (name, target) in targets {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut count = 0;
        for file in std::fs::read_dir(dir).unwrap() {
            let path = file.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let result = std::panic::catch_unwind(|| target(&bytes));
            assert!(result.is_ok(), "{}", path.display());
            count += 1;
        }
        assert!(count > 20, "{name} has a corpus of {count}");
    }
}
