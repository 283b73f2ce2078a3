//! What the spool takes for granted of a storage.

use std::io::ErrorKind;

use super::*;

on_both_storages! {
    a_file_reads_back_what_was_written_and_ends_where_it_ends;
    a_file_is_cut_and_extended_with_zeros;
    a_name_is_made_once_renamed_over_another_and_removed;
    an_open_file_outlives_its_name;
}

fn names(storage: &Arc<dyn Storage>) -> Vec<(String, u64)> {
    let mut files = storage.list().unwrap();
    files.retain(|(name, _)| name != "lock");
    files.sort();
    files
}

fn read(file: &Arc<dyn storage::StorageFile>, offset: u64) -> Vec<u8> {
    let mut bytes = [0xEE; 16];
    let read = file.read_at(&mut bytes, offset).unwrap();
    bytes[..read].to_vec()
}

fn a_file_reads_back_what_was_written_and_ends_where_it_ends(bed: &Bed) {
    let storage = bed.storage();
    let file = storage.create("a").unwrap();
    file.write_all_at(b"12345", 0).unwrap();
    file.write_all_at(b"xy", 3).unwrap();
    file.sync_data().unwrap();
    storage.sync_directory().unwrap();
    let same = storage.open("a").unwrap();
    assert_eq!(read(&same, 0), b"123xy");
    assert_eq!(read(&same, 4), b"y");
    assert_eq!(read(&same, 5), b"");
    assert_eq!(read(&same, 900), b"");
    same.write_all_at(b"!", 7).unwrap();
    assert_eq!(read(&file, 0), b"123xy\0\0!");
    assert_eq!(names(&storage), [("a".to_owned(), 8)]);
    assert!(storage.free_bytes().unwrap() > 0);
}

fn a_file_is_cut_and_extended_with_zeros(bed: &Bed) {
    let file = bed.storage().create("a").unwrap();
    file.write_all_at(b"12345", 0).unwrap();
    file.set_len(2).unwrap();
    assert_eq!(read(&file, 0), b"12");
    file.set_len(4).unwrap();
    assert_eq!(read(&file, 0), b"12\0\0");
}

fn a_name_is_made_once_renamed_over_another_and_removed(bed: &Bed) {
    let storage = bed.storage();
    storage.create("a").unwrap().write_all_at(b"a", 0).unwrap();
    storage.create("b").unwrap();
    let twice = storage.create("a").unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    storage.rename("a", "b").unwrap();
    assert_eq!(names(&storage), [("b".to_owned(), 1)]);
    storage.remove("b").unwrap();
    assert_eq!(names(&storage), []);
    for missing in [
        storage.open("a").map(drop),
        storage.remove("a"),
        storage.rename("a", "b"),
    ] {
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

fn an_open_file_outlives_its_name(bed: &Bed) {
    let storage = bed.storage();
    let file = storage.create("a").unwrap();
    file.write_all_at(b"1", 0).unwrap();
    storage.remove("a").unwrap();
    storage.create("a").unwrap().write_all_at(b"2", 0).unwrap();
    assert_eq!(read(&file, 0), b"1");
    assert_eq!(read(&storage.open("a").unwrap(), 0), b"2");
}
