use proptest::prelude::*;

use super::*;

/// A sound version 3 header for a disk of 1 GiB.
fn qcow2() -> Vec<u8> {
    let mut head = vec![0; 512];
    head[..4].copy_from_slice(QCOW2_MAGIC);
    put32(&mut head, 4, 3);
    put32(&mut head, 20, 16);
    put64(&mut head, 24, 1 << 30);
    put32(&mut head, 100, 104);
    head
}

fn put32(head: &mut [u8], at: usize, value: u32) {
    head[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put64(head: &mut [u8], at: usize, value: u64) {
    head[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// [`inspect`] of a qcow2 file after `change`.
fn inspect_changed(change: impl FnOnce(&mut Vec<u8>)) -> Result<u64, HeaderError> {
    let mut head = qcow2();
    change(&mut head);
    inspect(DiskFormat::Qcow2, &head, head.len() as u64)
}

#[test]
fn a_sound_qcow2_of_version_2_or_3_has_its_virtual_size() {
    assert_eq!(inspect_changed(|_| ()), Ok(1 << 30));
    assert_eq!(inspect_changed(|head| put32(head, 4, 2)), Ok(1 << 30));
    let zstd_and_extended_l2 = |head: &mut Vec<u8>| {
        put64(head, 72, incompatible::COMPRESSION | incompatible::EXTENDED_L2);
    };
    assert_eq!(inspect_changed(zstd_and_extended_l2), Ok(1 << 30));
}

#[test]
fn a_qcow2_that_names_another_file_is_refused() {
    let backing = inspect_changed(|head| put64(head, 8, 200));
    assert_eq!(backing, Err(HeaderError::BackingFile));

    let data_bit = inspect_changed(|head| put64(head, 72, incompatible::EXTERNAL_DATA));
    assert_eq!(data_bit, Err(HeaderError::ExternalData));

    let data_name = inspect_changed(|head| {
        put32(head, 104, 0x1234);
        put32(head, 108, 3);
        put32(head, 120, EXTENSION_DATA_FILE);
        put32(head, 124, 11);
    });
    assert_eq!(data_name, Err(HeaderError::ExternalData));

    let data_name_of_version_2 = inspect_changed(|head| {
        put32(head, 4, 2);
        put32(head, 72, EXTENSION_DATA_FILE);
    });
    assert_eq!(data_name_of_version_2, Err(HeaderError::ExternalData));
}

#[test]
fn a_qcow2_that_no_guest_should_write_to_is_refused() {
    let refused = [
        (inspect_changed(|head| put32(head, 4, 4)), HeaderError::Version(4)),
        (inspect_changed(|head| put32(head, 32, 2)), HeaderError::Encrypted),
        (inspect_changed(|head| put64(head, 72, incompatible::DIRTY)), HeaderError::Unclean),
        (inspect_changed(|head| put64(head, 72, incompatible::CORRUPT)), HeaderError::Unclean),
        (inspect_changed(|head| put64(head, 72, 1 << 7)), HeaderError::UnknownFeatures(1 << 7)),
        (inspect_changed(|head| head.truncate(90)), HeaderError::Truncated),
        (inspect_changed(|head| head.truncate(5)), HeaderError::Truncated),
        (inspect_changed(|head| head[0] = 0), HeaderError::NotQcow2),
    ];
    for (outcome, expected) in refused {
        assert_eq!(outcome, Err(expected));
    }
    let unsound: [fn(&mut Vec<u8>); 3] =
        [|head| put32(head, 20, 40), |head| put32(head, 100, 72), |head| put64(head, 24, u64::MAX)];
    for change in unsound {
        assert!(matches!(inspect_changed(change), Err(HeaderError::Unsound(_))));
    }
}

#[test]
fn a_raw_image_that_begins_like_another_format_is_refused() {
    let head = qcow2();
    assert_eq!(inspect(DiskFormat::Raw, &head, 512), Err(HeaderError::NotRaw("qcow2")));
    let vmdk = b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/passwd\"";
    assert_eq!(inspect(DiskFormat::Raw, vmdk, 46), Err(HeaderError::NotRaw("vmdk")));
    let mut vdi = vec![0; 512];
    vdi[64..68].copy_from_slice(b"\x7f\x10\xda\xbe");
    assert_eq!(inspect(DiskFormat::Raw, &vdi, 512), Err(HeaderError::NotRaw("vdi")));
}

#[test]
fn a_raw_image_is_as_large_as_its_file() {
    assert_eq!(inspect(DiskFormat::Raw, &[0; 512], 512), Ok(512));
    assert_eq!(inspect(DiskFormat::Raw, &[], 0), Ok(0));
}

#[test]
fn an_overlay_is_told_from_a_disk_that_stands_alone() {
    let mut head = qcow2();
    head.resize(300, 0);
    put64(&mut head, 8, 200);
    put32(&mut head, 16, 8);
    head[200..208].copy_from_slice(b"../_base");
    let backing_file = Some("../_base".to_owned());
    let overlay = Qcow2 { virtual_size: 1 << 30, has_backing: true, backing_file };
    assert_eq!(parse_qcow2(&head), Ok(overlay));
    put32(&mut head, 16, 1_024);
    assert!(parse_qcow2(&head).is_err(), "a name longer than the format allows");
    put32(&mut head, 16, 200);
    assert_eq!(parse_qcow2(&head), Err(HeaderError::Truncated));
}

proptest! {
    #[test]
    fn no_content_makes_the_parser_panic(
        mut head in proptest::collection::vec(any::<u8>(), 0..300),
        version in 2u32..4,
    ) {
        let _ = parse_qcow2(&head);
        if head.len() > 8 {
            head[..4].copy_from_slice(QCOW2_MAGIC);
            put32(&mut head, 4, version);
        }
        let _ = parse_qcow2(&head);
    }
}
