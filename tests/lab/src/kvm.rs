//! Whether the processor can carry out guests' instructions. There are machines on which `/dev/kvm` opens and
//! guests hang: a guest is booted to find out, once per boot of the machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use crate::config_files::VirtType;
use crate::guest::{self, COMMAND_LINE};
use crate::process::Spawner;
use crate::wait::{Deadline, until};

/// A guest that the processor carries out beats within a second.
const PATIENCE: Duration = Duration::from_secs(6);

/// What guests are to run on, as far as is known from an earlier look; `cache` is that of the guest's image.
pub(crate) fn detect(spawner: &Spawner, cache: &Path) -> anyhow::Result<VirtType> {
    let opens = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !opens {
        return Ok(VirtType::Qemu);
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("reading the machine's boot id")?;
    let known = cache.join("kvm");
    let words = std::fs::read_to_string(&known).unwrap_or_default();
    let works = match words.split_once(' ') {
        Some((then, answer)) if then == boot.trim() => answer == "works",
        _ => {
            let works = a_guest_beats(spawner, cache)?;
            let answer = if works { "works" } else { "broken" };
            std::fs::write(&known, format!("{} {answer}", boot.trim()))
                .with_context(|| format!("writing {}", known.display()))?;
            works
        }
    };
    Ok(if works { VirtType::Kvm } else { VirtType::Qemu })
}

fn a_guest_beats(spawner: &Spawner, cache: &Path) -> anyhow::Result<bool> {
    let image = guest::prepare(cache)?;
    let console = cache.join(format!("kvm-{}.console", std::process::id()));
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
        .args(["-accel", "kvm", "-m", "128", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-append", COMMAND_LINE, "-serial", &format!("file:{}", console.display())])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut emulator = spawner.spawn(command).context("starting an emulator to try KVM")?;
    let beats = until(Deadline::after(PATIENCE), "a guest on KVM", || {
        let text = std::fs::read(&console).unwrap_or_default();
        let beats = guest::Heartbeat::last_of(&String::from_utf8_lossy(&text)).is_some();
        // The emulator ends at once where the kernel refuses.
        Ok((beats || emulator.try_wait()?.is_some()).then_some(beats))
    });
    let _ = emulator.kill();
    let _ = emulator.wait();
    let _ = std::fs::remove_file(&console);
    // The reason why it doesn't beat does not matter, unless the person at the terminal is it.
    if crate::wait::is_interrupted() { beats } else { Ok(beats.unwrap_or(false)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::labs_dir;

    #[test]
    fn the_second_look_is_the_same_as_the_first() {
        let spawner = Spawner::new().unwrap();
        let cache = labs_dir().join("cache");
        let first = detect(&spawner, &cache).unwrap();
        assert_eq!(detect(&spawner, &cache).unwrap(), first);
    }
}
