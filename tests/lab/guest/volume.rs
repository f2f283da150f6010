//! Volumes: a disk besides the first, which comes and goes while the guest runs. It is opened for each request, so
//! that nothing in the guest holds on to it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use crate::page::{MAGIC, PAGE, Page};

/// Blocks that are written, and looked at.
const BLOCKS: usize = 256;

fn open() -> io::Result<File> {
    let mut names = Vec::new();
    for entry in fs::read_dir("/sys/class/block")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("vd") && name.len() == 3 && name != "vda" {
            names.push(name);
        }
    }
    let none = || io::Error::other("no-volume");
    let name = names.into_iter().min().ok_or_else(none)?;
    OpenOptions::new().read(true).write(true).open(format!("/dev/{name}"))
}

/// Writes blocks that say that they are of `version`, and flushes them.
pub(crate) fn fill(version: u64) -> io::Result<()> {
    let device = open()?;
    let mut page = Box::new(Page::zeroed());
    let mut bytes = vec![0; PAGE];
    for block in 0..BLOCKS {
        page.fill(block as u64, version);
        page.encode(&mut bytes);
        device.write_all_at(&bytes, (block * PAGE) as u64)?;
    }
    device.sync_all()
}

/// The version that all blocks say they are of.
pub(crate) fn read() -> io::Result<u64> {
    let device = open()?;
    let mut page = Box::new(Page::zeroed());
    let mut bytes = vec![0; PAGE];
    let mut first = None;
    for block in 0..BLOCKS {
        device.read_exact_at(&mut bytes, (block * PAGE) as u64)?;
        page.decode(&bytes);
        let [magic, _, version, ..] = page.0;
        let version = *first.get_or_insert(version);
        if magic != MAGIC || !page.is_right(block as u64, version) {
            return Err(io::Error::other(format!("block-{block}-is-damaged")));
        }
    }
    Ok(first.unwrap_or_default())
}
