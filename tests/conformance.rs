//! The conformance tables name tests that exist, and each statement once.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// The tables, with the number of statements each has at least: none gets lost in an edit.
const TABLES: [(&str, &str, usize); 2] = [
    ("MQTT 3.1.1", include_str!("conformance/mqtt_3_1_1.md"), 126),
    ("MQTT 5", include_str!("conformance/mqtt_5.md"), 205),
];

/// The names of all tests in the Rust files below `directory`.
fn tests_below(directory: &Path, names: &mut HashSet<String>) {
    for entry in fs::read_dir(directory).expect("the directory can be read") {
        let path = entry.expect("a listed file").path();
        if path.is_dir() {
            tests_below(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).expect("the file can be read");
            let mut lines = source.lines().map(str::trim);
            while let Some(line) = lines.next() {
                if (line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
                    && let Some(function) = lines.next()
                    && let Some((_, name)) = function.split_once("fn ")
                    && let Some((name, _)) = name.split_once('(')
                {
                    names.insert(name.to_owned());
                }
            }
        }
    }
}

/// The cells of each row of a table.
fn rows(table: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = table.lines().filter(|line| line.starts_with("| MQTT-"));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

#[test]
fn every_statement_is_proved_by_tests_that_exist_or_says_why_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = HashSet::new();
    tests_below(&root.join("src"), &mut tests);
    tests_below(&root.join("tests"), &mut tests);
    for (version, table, statements_min) in TABLES {
        let mut seen = HashSet::new();
        for row in rows(table) {
            let [statement, words, proof] = row[..] else {
                panic!("{version}: {row:?}");
            };
            assert!(seen.insert(statement), "{version}: {statement} twice");
            assert!(!words.is_empty(), "{version}: {statement}");
            let excused = ["deviation: ", "not applicable: "]
                .iter()
                .any(|reason| proof.len() > reason.len() && proof.starts_with(reason));
            let named: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
            assert!(excused || !named.is_empty(), "{version}: {statement}");
            for test in named {
                assert!(tests.contains(test), "{version}: {statement}: {test}");
            }
        }
        assert!(
            seen.len() >= statements_min,
            "{version}: {} statements",
            seen.len()
        );
    }
}
