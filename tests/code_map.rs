//! The code map in `ARCHITECTURE.md` is that of the code: it has every module, and dependencies point down it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A module of the crate, by a path of the map or of a source: `src/spool/` is `spool`, and so is `src/spool/log.rs`.
fn module(path: &str) -> &str {
    let path = path.strip_prefix("src/").unwrap_or(path);
    path.split(['/', '.']).next().unwrap_or_default()
}

/// The row in which each module stands first.
fn rows() -> BTreeMap<String, usize> {
    let text = read("ARCHITECTURE.md");
    let (_, map) = text.split_once("## Code map").expect("there is a code map");
    let (map, _) = map.split_once("\n## ").expect("and something behind it");
    let in_src = map.lines().filter(|line| line.starts_with("| `src/"));
    let mut rows = BTreeMap::new();
    for (row, line) in in_src.enumerate() {
        let cell = line.split('|').nth(1).unwrap_or_default();
        // A part of a module may stand elsewhere.
        let is_whole = |path: &&str| path.trim_end_matches('/').matches('/').count() < 2;
        for path in cell.split('`').skip(1).step_by(2).filter(is_whole) {
            rows.entry(module(path).to_owned()).or_insert(row);
        }
    }
    rows
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("it is there") {
        let path = entry.expect("it can be read").path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

/// The modules of the crate that a source names, but not its tests.
fn uses(source: &str) -> Vec<&str> {
    let (code, _) = source
        .split_once("#[cfg(test)]\nmod tests {")
        .unwrap_or((source, ""));
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let named = lines.flat_map(|line| line.split("crate::").skip(1));
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    named
        .filter_map(|rest| rest.split(|c| !is_name(c)).next())
        .collect()
}

#[test]
fn every_module_is_in_the_map() {
    let rows = rows();
    let lib = read("src/lib.rs");
    let declared = lib.lines().filter_map(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    let missing: Vec<&str> = declared.filter(|name| !rows.contains_key(*name)).collect();
    assert!(missing.is_empty(), "not in the code map: {missing:?}");
}

#[test]
fn dependencies_point_down_the_map() {
    let rows = rows();
    let src = Path::new(ROOT).join("src");
    let mut found = Vec::new();
    sources(&src, &mut found);
    let mut upwards = Vec::new();
    let mut checked = 0;
    for path in found {
        let relative = path
            .strip_prefix(ROOT)
            .expect("it is below")
            .display()
            .to_string();
        let own = rows.get(module(&relative));
        for used in uses(&read(&path)) {
            if let (Some(own), Some(row)) = (own, rows.get(used)) {
                checked += 1;
                if row < own {
                    upwards.push(format!("{relative} uses {used}"));
                }
            }
        }
    }
    assert!(checked > 100, "{checked}");
    assert!(upwards.is_empty(), "{upwards:#?}");
}
