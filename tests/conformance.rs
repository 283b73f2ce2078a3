//! The conformance tables name tests that exist, each statement once, and how many statements there are of each kind.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// The tables, with the number of normative statements in the standard: none gets lost in an edit.
const TABLES: [(&str, &str, usize); 2] = [
    ("MQTT 3.1.1", include_str!("conformance/mqtt_3_1_1.md"), 141),
    ("MQTT 5", include_str!("conformance/mqtt_5.md"), 251),
];

/// How a proof begins that is no test, and what the sum at the top of a table calls it.
const NOT_TESTED: [(&str, &str); 3] = [
    ("deviation: ", "with a stated deviation"),
    ("not applicable: ", "not applicable"),
    ("a client's", "a client's alone"),
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
    for (version, table, statements) in TABLES {
        let (mut seen, mut counts) = (HashSet::new(), [0; NOT_TESTED.len()]);
        for row in rows(table) {
            let [statement, words, proof] = row[..] else {
                panic!("{version}: {row:?}");
            };
            assert!(seen.insert(statement), "{version}: {statement} twice");
            assert!(!words.is_empty(), "{version}: {statement}");
            let mut kinds = NOT_TESTED.iter();
            let kind = kinds.position(|(start, _)| proof.starts_with(start));
            let named: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
            match kind {
                Some(kind) => counts[kind] += 1,
                None => assert!(!named.is_empty(), "{version}: {statement}"),
            }
            for test in named {
                assert!(tests.contains(test), "{version}: {statement}: {test}");
            }
        }
        assert_eq!(seen.len(), statements, "{version}");
        let mut sum = vec![format!(
            "{} tested",
            statements - counts.iter().sum::<usize>()
        )];
        let others = counts.iter().zip(NOT_TESTED);
        sum.extend(others.map(|(count, (_, words))| format!("{count} {words}")));
        let sum = format!("**{statements} statements: {}.**", sum.join(", "));
        assert!(table.contains(&sum), "{version}: {sum}");
    }
}
