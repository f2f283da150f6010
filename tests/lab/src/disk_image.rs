//! The guest's bootable disk, made without loop devices and without root.
//!
//! ```text
//! 0        1 MiB                       128 MiB                192 MiB           256 MiB
//! │ MBR    │ partition 1: FAT, syslinux, │ partition 2: blocks  │ free: an overlay │
//! │        │ kernel, initramfs           │ of the disk writer   │ can have holes   │
//! ```

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::guest::run;

const SECTOR: u64 = 512;
const MIB: u64 = 1024 * 1024;
/// Size of the whole disk, in bytes.
const DISK_BYTES: u64 = 256 * MIB;
const BOOT: Partition = Partition { start: MIB, size: 48 * MIB, kind: 0x0e, bootable: true };
const DATA: Partition = Partition { start: 128 * MIB, size: 64 * MIB, kind: 0x83, bootable: false };
/// First stage of the boot loader: finds the bootable partition and starts what is there.
const MBR: &str = "/usr/lib/syslinux/mbr/mbr.bin";
/// The first stage ends where the table of partitions begins.
const MBR_CODE_BYTES: usize = 440;
const TABLE_OFFSET: u64 = 446;

struct Partition {
    start: u64,
    size: u64,
    kind: u8,
    bootable: bool,
}

impl Partition {
    /// Its 16 bytes in the table. Only sector numbers count; the addresses by cylinder say "beyond".
    fn entry(&self) -> [u8; 16] {
        let mut entry = [0; 16];
        entry[0] = if self.bootable { 0x80 } else { 0 };
        entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
        entry[4] = self.kind;
        entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
        entry[8..12].copy_from_slice(&sectors(self.start).to_le_bytes());
        entry[12..16].copy_from_slice(&sectors(self.size).to_le_bytes());
        entry
    }
}

fn sectors(bytes: u64) -> u32 {
    u32::try_from(bytes / SECTOR).expect("the disk is smaller than 2 TiB")
}

/// Makes `disk.raw` and `disk.qcow2` in a folder that holds `vmlinuz` and `initramfs.gz`.
pub(crate) fn make(folder: &Path, command_line: &str) -> anyhow::Result<()> {
    let raw = folder.join("disk.raw");
    let boot = boot_partition(folder, command_line)?;
    let disk = File::create_new(&raw).context("creating the guest's disk")?;
    disk.set_len(DISK_BYTES)?;
    let mbr = fs::read(MBR).context("syslinux-common is not installed: make setup")?;
    disk.write_all_at(&mbr[..mbr.len().min(MBR_CODE_BYTES)], 0)?;
    disk.write_all_at(&BOOT.entry(), TABLE_OFFSET)?;
    disk.write_all_at(&DATA.entry(), TABLE_OFFSET + 16)?;
    disk.write_all_at(&[0x55, 0xaa], SECTOR - 2)?;
    write_sparsely(&disk, &boot, BOOT.start)?;
    drop(disk);
    run(Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([&raw, &folder.join("disk.qcow2")]))
}

/// The content of the partition from which the guest boots.
fn boot_partition(folder: &Path, command_line: &str) -> anyhow::Result<Vec<u8>> {
    let path = folder.join("boot.fat");
    File::create_new(&path)?.set_len(BOOT.size)?;
    let configuration = folder.join("syslinux.cfg");
    fs::write(
        &configuration,
        format!(
            "DEFAULT guest\nPROMPT 0\nTIMEOUT 0\n\
             LABEL guest\n  KERNEL vmlinuz\n  INITRD initramfs.gz\n  APPEND {command_line}\n"
        ),
    )?;
    // The loader in the partition must know how many sectors lie before it.
    run(Command::new("mkfs.fat")
        .args(["-F", "16", "-n", "GUEST", "--invariant", "-h", &sectors(BOOT.start).to_string()])
        .arg(&path))?;
    run(Command::new("syslinux").arg("--install").arg(&path))?;
    run(Command::new("mcopy")
        .arg("-i")
        .arg(&path)
        .args([&configuration, &folder.join("vmlinuz"), &folder.join("initramfs.gz")])
        .arg("::/"))?;
    let content = fs::read(&path)?;
    fs::remove_file(&path)?;
    fs::remove_file(&configuration)?;
    Ok(content)
}

/// Leaves holes where there are only zeros.
fn write_sparsely(disk: &File, content: &[u8], start: u64) -> anyhow::Result<()> {
    const CHUNK: usize = 64 * 1024;
    for (chunk, at) in content.chunks(CHUNK).zip((start..).step_by(CHUNK)) {
        if chunk.iter().any(|byte| *byte != 0) {
            disk.write_all_at(chunk, at)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_written_as_the_bios_reads_it() {
        let entry = BOOT.entry();
        assert_eq!((entry[0], entry[4]), (0x80, 0x0e));
        assert_eq!(entry[8..12], 2048_u32.to_le_bytes());
        assert_eq!(entry[12..16], 98_304_u32.to_le_bytes());
    }
}
