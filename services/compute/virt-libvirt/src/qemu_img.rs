//! `qemu-img`, always told the formats and never left to guess them (OSSA-2026-002), under limits of memory,
//! processor time and time (OSSA-2016-012).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use whimbrel_model::DiskFormat;
use whimbrel_virt::DriverError;

use crate::error::Doing;

/// Most memory that `qemu-img` may map, in bytes.
const MEMORY_LIMIT: u64 = 1 << 30;
/// Most processor time that it may use, in seconds.
const CPU_LIMIT: u64 = 30;
/// Most time that it may take.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// What to make a new disk over.
#[derive(Clone, Debug)]
pub(crate) struct Backing {
    /// The file, relative to the new disk's directory.
    pub(crate) file: String,
    /// How its bytes are to be read.
    pub(crate) format: DiskFormat,
}

/// Makes an empty disk of `virtual_size` bytes at `path`, which must not exist.
pub(crate) async fn create(
    program: &Path,
    path: &Path,
    format: DiskFormat,
    virtual_size: i64,
    backing: Option<&Backing>,
) -> Result<(), DriverError> {
    let arguments = create_arguments(path, format, virtual_size, backing);
    run("make a disk with qemu-img", program, arguments).await
}

/// Grows the disk at `path` to `virtual_size` bytes. `qemu-img` refuses to shrink it.
pub(crate) async fn grow(
    program: &Path,
    path: &Path,
    format: DiskFormat,
    virtual_size: i64,
) -> Result<(), DriverError> {
    run("grow a disk with qemu-img", program, grow_arguments(path, format, virtual_size)).await
}

/// Writes all of the disk at `path`, what it takes from its base, too, into one new qcow2 file.
pub(crate) async fn flatten(
    program: &Path,
    path: &Path,
    format: DiskFormat,
    to: &Path,
) -> Result<(), DriverError> {
    run("flatten a disk with qemu-img", program, flatten_arguments(path, format, to)).await
}

async fn run(doing: &'static str, program: &Path, own: Vec<OsString>) -> Result<(), DriverError> {
    let mut arguments = limited(program);
    arguments.extend(own);
    let mut command = Command::new("prlimit");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(TIME_LIMIT, command.output()).await {
        Ok(output) => output.doing(doing)?,
        Err(_) => {
            let message = format!("not done within {} s", TIME_LIMIT.as_secs());
            return Err(DriverError::Hypervisor { doing, message });
        }
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let message = format!("{}: {}", output.status, said.trim());
    Err(DriverError::Hypervisor { doing, message })
}

/// `prlimit`'s arguments up to and including the program.
fn limited(program: &Path) -> Vec<OsString> {
    let program = PathBuf::from(program).into_os_string();
    vec![format!("--as={MEMORY_LIMIT}").into(), format!("--cpu={CPU_LIMIT}").into(), program]
}

fn create_arguments(
    path: &Path,
    format: DiskFormat,
    virtual_size: i64,
    backing: Option<&Backing>,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        vec!["create".into(), "-q".into(), "-f".into(), format.to_string().into()];
    if let Some(backing) = backing {
        arguments.extend(["-F".into(), backing.format.to_string().into()]);
        arguments.extend(["-b".into(), OsString::from(&backing.file)]);
    }
    arguments.extend([path.into(), virtual_size.to_string().into()]);
    arguments
}

fn grow_arguments(path: &Path, format: DiskFormat, virtual_size: i64) -> Vec<OsString> {
    let format = format.to_string();
    let [size, file] = [virtual_size.to_string().into(), path.into()];
    vec!["resize".into(), "-q".into(), "-f".into(), format.into(), file, size]
}

fn flatten_arguments(path: &Path, format: DiskFormat, to: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["convert".into(), "-q".into(), "-f".into()];
    arguments.push(format.to_string().into());
    arguments.extend(["-O".into(), "qcow2".into(), path.into(), to.into()]);
    arguments
}

#[cfg(test)]
mod tests {
    use strum::VariantArray as _;

    use super::*;

    /// Every way in which `qemu-img` is called.
    fn all_calls() -> Vec<Vec<OsString>> {
        let mut calls = Vec::new();
        for format in DiskFormat::VARIANTS {
            for backing in [None, Some(DiskFormat::Raw), Some(DiskFormat::Qcow2)] {
                let backing =
                    backing.map(|format| Backing { file: "../_base/1".to_owned(), format });
                calls.push(create_arguments(Path::new("/i/disk"), *format, 1, backing.as_ref()));
            }
            calls.push(grow_arguments(Path::new("/i/disk"), *format, 1));
            calls.push(flatten_arguments(Path::new("/i/disk"), *format, Path::new("/i/flat")));
        }
        calls
    }

    #[test]
    fn every_call_names_the_format_of_every_file() {
        for call in all_calls() {
            let has = |flag: &str| call.iter().any(|argument| argument == flag);
            assert!(has("-f"), "{call:?}");
            assert_eq!(has("-b"), has("-F"), "{call:?}");
            assert_eq!(has("convert"), has("-O"), "{call:?}");
        }
    }

    #[test]
    fn every_call_is_made_here_under_limits() {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        for entry in std::fs::read_dir(source).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let spawns = text.contains(concat!("Command", "::new"));
            assert_eq!(spawns, path.ends_with("qemu_img.rs"), "{}", path.display());
        }
        assert_eq!(
            limited(Path::new("qemu-img")),
            ["--as=1073741824", "--cpu=30", "qemu-img"].map(OsString::from)
        );
    }
}
