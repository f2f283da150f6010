use super::*;

#[test]
fn disks_travel_where_storage_is_not_shared_and_only_there() {
    assert!(must_copy(BlockMigration::Auto, false).unwrap());
    assert!(!must_copy(BlockMigration::Auto, true).unwrap());
    assert!(must_copy(BlockMigration::Yes, false).unwrap());
    assert!(!must_copy(BlockMigration::No, true).unwrap());
    assert!(matches!(must_copy(BlockMigration::Yes, true), Err(DriverError::PreCheck(_))));
    assert!(matches!(must_copy(BlockMigration::No, false), Err(DriverError::PreCheck(_))));
}

#[test]
fn a_disk_outside_the_guests_directory_does_not_move() {
    let disk = |file: Option<&str>| XmlDisk {
        target: "vda".to_owned(),
        file: file.map(str::to_owned),
        format: "qcow2".to_owned(),
    };
    let directory = Path::new("/i/1");
    assert_eq!(file_in(directory, &disk(Some("/i/1/disk"))).unwrap(), "disk");
    for outside in [None, Some("/etc/passwd"), Some("/i/2/disk"), Some("/i/1/x/disk")] {
        assert!(file_in(directory, &disk(outside)).is_err(), "{outside:?}");
    }
}

#[test]
fn versions_are_written_as_people_write_them() {
    assert_eq!(dotted(10_000_002), "10.0.2");
}
