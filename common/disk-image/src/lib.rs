//! What a disk image says of itself, read by our own code.
//!
//! An image comes from a user. Before any tool of the host opens it, its header must agree with what it was
//! said to be, and must not name another file: such a file would be read, or written, with the host's rights
//! (OSSA-2024-001, OSSA-2024-002, OSSA-2023-002).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use whimbrel_model::DiskFormat;

/// As much as is read of an image: the header, its extensions and the place of other formats' marks.
const HEAD: u64 = 64 * 1024;

const QCOW2_MAGIC: &[u8] = b"QFI\xfb";
/// Where a version 2 header ends.
const V2_LENGTH: usize = 72;
/// Where the fields of version 3 end that every version 3 header has.
const V3_LENGTH: usize = 104;

/// Features that a reader must know (version 3).
mod incompatible {
    pub(super) const DIRTY: u64 = 1;
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const EXTERNAL_DATA: u64 = 1 << 2;
    pub(super) const COMPRESSION: u64 = 1 << 3;
    pub(super) const EXTENDED_L2: u64 = 1 << 4;
}

/// Header extension that names an external data file.
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
/// Header extension that names the backing file's format.
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;

/// What is wrong with an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A raw image with another format's mark would be read as that format by whoever guesses.
    #[error("it is said to be raw, but its content is {0}")]
    NotRaw(&'static str),
    /// A qcow2 image begins with a mark of its own.
    #[error("it is said to be qcow2, but does not begin like one")]
    NotQcow2,
    /// It can't be read to the end of its header.
    #[error("it ends in the middle of its header")]
    Truncated,
    /// A version that this code has not seen.
    #[error("qcow2 version {0} is not known; versions 2 and 3 are")]
    Version(u32),
    /// It lies over another file.
    #[error("it needs a backing file; flatten it first, with qemu-img convert")]
    BackingFile,
    /// Its data is in another file.
    #[error("it keeps its data in another file; flatten it first, with qemu-img convert")]
    ExternalData,
    /// Nobody here has the key.
    #[error("it is encrypted")]
    Encrypted,
    /// Its tables can't be trusted.
    #[error("it was not closed well, or is corrupt; repair it first, with qemu-img check")]
    Unclean,
    /// Whoever reads it without knowing them reads it wrongly.
    #[error("it needs features that are not known (bits {0:#x})")]
    UnknownFeatures(u64),
    /// Its fields contradict each other.
    #[error("its header is not sound: {0}")]
    Unsound(&'static str),
}

/// What a qcow2 header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qcow2 {
    /// The disk's size as a guest sees it, in bytes.
    pub virtual_size: u64,
    /// It lies over another file.
    pub has_backing: bool,
    /// That file, as the header names it.
    pub backing_file: Option<String>,
}

/// The virtual size of an image of `length` bytes that begins with `head`, if it is sound, of the format
/// said, and complete in itself.
pub fn inspect(format: DiskFormat, head: &[u8], length: u64) -> Result<u64, HeaderError> {
    match format {
        DiskFormat::Raw => match foreign_mark(head) {
            Some(mark) => Err(HeaderError::NotRaw(mark)),
            None => Ok(length),
        },
        DiskFormat::Qcow2 => {
            let header = parse_qcow2(head)?;
            if header.has_backing {
                return Err(HeaderError::BackingFile);
            }
            Ok(header.virtual_size)
        }
    }
}

/// Reads as much of a file as [`inspect`] and [`parse_qcow2`] need.
pub fn read_head(path: &Path) -> io::Result<(Vec<u8>, u64)> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head)?;
    Ok((head, length))
}

/// Whose format the content is, if it is not plain bytes of a disk.
fn foreign_mark(head: &[u8]) -> Option<&'static str> {
    const MARKS: [(usize, &[u8], &str); 11] = [
        (0, QCOW2_MAGIC, "qcow2"),
        (0, b"QED\0", "qed"),
        (0, b"KDMV", "vmdk"),
        (0, b"COWD", "vmdk"),
        (0, b"# Disk DescriptorFile", "vmdk"),
        (0, b"conectix", "vpc"),
        (0, b"vhdxfile", "vhdx"),
        (0, b"LUKS\xba\xbe", "luks"),
        (0, b"OOOO CMM", "bochs or parallels"),
        (0, b"WithoutFreeSpace", "parallels"),
        (64, b"\x7f\x10\xda\xbe", "vdi"),
    ];
    let at = |offset: usize, mark: &[u8]| head.get(offset..offset + mark.len()) == Some(mark);
    MARKS.iter().find(|(offset, mark, _)| at(*offset, mark)).map(|(_, _, name)| *name)
}

/// What the header of a qcow2 file says. Its backing file is reported and not refused.
pub fn parse_qcow2(head: &[u8]) -> Result<Qcow2, HeaderError> {
    if !head.starts_with(QCOW2_MAGIC) {
        return Err(HeaderError::NotQcow2);
    }
    let version = be32(head, 4)?;
    let header_length = match version {
        2 => V2_LENGTH,
        3 => be32(head, 100)? as usize,
        other => return Err(HeaderError::Version(other)),
    };
    if version == 3 && header_length < V3_LENGTH {
        return Err(HeaderError::Unsound("it is shorter than version 3 allows"));
    }
    if head.len() < header_length {
        return Err(HeaderError::Truncated);
    }
    if !(9..=21).contains(&be32(head, 20)?) {
        return Err(HeaderError::Unsound("its cluster size is out of range"));
    }
    if be32(head, 32)? != 0 {
        return Err(HeaderError::Encrypted);
    }
    if version == 3 {
        check_features(be64(head, 72)?)?;
    }
    let has_backing = be64(head, 8)? != 0;
    check_extensions(head, header_length, has_backing)?;
    let virtual_size = be64(head, 24)?;
    if i64::try_from(virtual_size).is_err() {
        return Err(HeaderError::Unsound("its virtual size is out of range"));
    }
    let backing_file = if has_backing { Some(backing_file(head)?) } else { None };
    Ok(Qcow2 { virtual_size, has_backing, backing_file })
}

/// The format allows at most 1023 bytes.
fn backing_file(head: &[u8]) -> Result<String, HeaderError> {
    let at = usize::try_from(be64(head, 8)?).map_err(|_| HeaderError::Truncated)?;
    let length = be32(head, 16)? as usize;
    if length > 1_023 {
        return Err(HeaderError::Unsound("the name of its backing file is too long"));
    }
    let name = at.checked_add(length).and_then(|end| head.get(at..end));
    let name = name.ok_or(HeaderError::Truncated)?;
    String::from_utf8(name.to_vec())
        .map_err(|_| HeaderError::Unsound("the name of its backing file is no text"))
}

fn check_features(features: u64) -> Result<(), HeaderError> {
    use incompatible::{COMPRESSION, CORRUPT, DIRTY, EXTENDED_L2, EXTERNAL_DATA};
    if features & EXTERNAL_DATA != 0 {
        return Err(HeaderError::ExternalData);
    }
    if features & (DIRTY | CORRUPT) != 0 {
        return Err(HeaderError::Unclean);
    }
    match features & !(COMPRESSION | EXTENDED_L2) {
        0 => Ok(()),
        unknown => Err(HeaderError::UnknownFeatures(unknown)),
    }
}

fn check_extensions(head: &[u8], start: usize, has_backing: bool) -> Result<(), HeaderError> {
    let mut at = start;
    // Extensions end with one of type 0, or where the first cluster's other content begins.
    while let (Ok(kind), Ok(length)) = (be32(head, at), be32(head, at + 4)) {
        match kind {
            0 => return Ok(()),
            EXTENSION_DATA_FILE => return Err(HeaderError::ExternalData),
            EXTENSION_BACKING_FORMAT if !has_backing => return Err(HeaderError::BackingFile),
            _ => at += 8 + (length as usize).next_multiple_of(8),
        }
    }
    Ok(())
}

fn be32(head: &[u8], at: usize) -> Result<u32, HeaderError> {
    let bytes = head.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(HeaderError::Truncated)
}

fn be64(head: &[u8], at: usize) -> Result<u64, HeaderError> {
    let bytes = head.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map(|bytes| u64::from_be_bytes(*bytes)).ok_or(HeaderError::Truncated)
}

#[cfg(test)]
mod tests;
