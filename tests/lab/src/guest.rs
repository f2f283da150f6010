//! The guest of the lab: how its image is made, and how to talk to the agent inside.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

use crate::disk_image;
use crate::initramfs::Initramfs;

mod stat;

pub use stat::{Heartbeat, Stat};

/// UDP port on which the agent answers.
pub const PORT: u16 = 7777;
/// Kernel command line of the guest.
pub const COMMAND_LINE: &str = "console=ttyS0 quiet mitigations=off audit=0";

/// The agent's sources: compiled here, so that the guest always speaks this library's language.
const AGENT: [(&str, &str); 5] = [
    ("agent.rs", include_str!("../guest/agent.rs")),
    ("disk.rs", include_str!("../guest/disk.rs")),
    ("memory.rs", include_str!("../guest/memory.rs")),
    ("page.rs", include_str!("../guest/page.rs")),
    ("volume.rs", include_str!("../guest/volume.rs")),
];
const INIT: &str = include_str!("../guest/init");
const BUSYBOX: &str = "/bin/busybox";
/// Raised when the way in which the image is made changes.
const RECIPE: u32 = 1;

/// A request is repeated this often while no answer comes: UDP may lose it, and does while the guest stands still.
const REPEAT: Duration = Duration::from_millis(500);

/// Everything to boot a guest from, in files that are never written again.
#[derive(Clone, Debug)]
pub struct GuestImage {
    /// Bootable disk, 256 MiB, sparse.
    pub raw: PathBuf,
    /// The same as qcow2.
    pub qcow2: PathBuf,
    /// Kernel, for a boot without the disk.
    pub kernel: PathBuf,
    /// Initramfs, for a boot without the disk.
    pub initramfs: PathBuf,
}

/// Makes the guest's image in `cache`, unless it is there already. Needs no root and no network; the kernel is
/// the one that `make setup` has put into `cache`.
///
/// # Errors
/// When the kernel or a tool is missing; the message says what to do.
pub fn prepare(cache: &Path) -> anyhow::Result<GuestImage> {
    let kernel = cache.join("kernel");
    let release = fs::read_to_string(kernel.join("release"))
        .with_context(|| format!("no guest kernel in {}: make setup", kernel.display()))?;
    let folder = cache.join(format!("guest-{}", fingerprint(&release)?));
    let image = GuestImage {
        raw: folder.join("disk.raw"),
        qcow2: folder.join("disk.qcow2"),
        kernel: folder.join("vmlinuz"),
        initramfs: folder.join("initramfs.gz"),
    };
    if folder.exists() {
        return Ok(image);
    }
    // Made under a name of its own and renamed when whole: others may be making the same.
    let draft = cache.join(format!("guest-{}.draft", std::process::id()));
    let _ = fs::remove_dir_all(&draft);
    fs::create_dir_all(&draft)?;
    let made = make(&draft, &kernel);
    let placed = made.and_then(|()| match fs::rename(&draft, &folder) {
        Err(_) if folder.exists() => Ok(()),
        other => other.context("putting the guest's image into its place"),
    });
    let _ = fs::remove_dir_all(&draft);
    placed.map(|()| image)
}

fn make(folder: &Path, kernel: &Path) -> anyhow::Result<()> {
    let agent = compile_agent(folder)?;
    let mut files = Initramfs::default();
    for name in ["bin", "dev", "modules"] {
        files.directory(name);
    }
    files.console("dev/console");
    files.program("init", INIT.as_bytes());
    files.program("agent", &agent);
    let busybox = fs::read(BUSYBOX).context("busybox-static is not installed: make setup")?;
    files.program("bin/busybox", &busybox);
    for entry in fs::read_dir(kernel.join("modules"))? {
        let entry = entry?;
        let name = entry.file_name();
        files.file(&format!("modules/{}", name.to_string_lossy()), &fs::read(entry.path())?);
    }
    let initramfs = folder.join("initramfs");
    fs::write(&initramfs, files.finish())?;
    run(Command::new("gzip").args(["-9", "--no-name"]).arg(&initramfs))?;
    fs::copy(kernel.join("vmlinuz"), folder.join("vmlinuz"))?;
    disk_image::make(folder, COMMAND_LINE)
}

fn compile_agent(folder: &Path) -> anyhow::Result<Vec<u8>> {
    let sources = folder.join("agent");
    fs::create_dir_all(&sources)?;
    for (name, text) in AGENT {
        fs::write(sources.join(name), text)?;
    }
    let program = sources.join("agent");
    // Static: the guest has no libraries.
    run(Command::new("rustc")
        .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static"])
        .args(["-C", "strip=symbols", "-C", "panic=abort", "-o"])
        .args([&program, &sources.join("agent.rs")]))?;
    let bytes = fs::read(&program)?;
    fs::remove_dir_all(&sources)?;
    Ok(bytes)
}

/// Changes whenever the image would.
fn fingerprint(kernel_release: &str) -> anyhow::Result<String> {
    let mut digest = Sha256::new();
    for text in AGENT.map(|(_, text)| text).into_iter().chain([INIT, COMMAND_LINE, kernel_release])
    {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    }
    digest.update(RECIPE.to_le_bytes());
    let busybox = fs::metadata(BUSYBOX).context("busybox-static is not installed: make setup")?;
    digest.update(busybox.len().to_le_bytes());
    Ok(digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// Runs a tool to its end; its messages become the error's text.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    // Tools for disks are where only root looks.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let output = command.output().with_context(|| format!("running {program}: make setup"))?;
    ensure!(
        output.status.success(),
        "{program} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The address that a guest gives itself: the last three octets of its MAC, `fa:16:3e:4e:YY:ZZ`, are those of
/// `10.78.YY.ZZ`. None when the text is no MAC.
pub fn address_of(mac: &str) -> Option<Ipv4Addr> {
    let octets: Vec<u8> =
        mac.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect::<Result<_, _>>().ok()?;
    match octets[..] {
        [_, _, _, second, third, fourth] => Some(Ipv4Addr::new(10, second, third, fourth)),
        _ => None,
    }
}

/// What the agent can be asked. It answers each request with a [`Stat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
pub enum Request {
    /// How things are.
    #[strum(to_string = "stat")]
    Stat,
    /// Rewrite so many MiB of memory per second.
    #[strum(to_string = "rate {0}")]
    Rate(u32),
    /// Do so in a working set of so many MiB.
    #[strum(to_string = "wset {0}")]
    WorkingSet(u32),
    /// Write so many blocks of 4 KiB per second.
    #[strum(to_string = "disk {0}")]
    Disk(u32),
    /// Check every page and every block that was written.
    #[strum(to_string = "verify")]
    Verify,
    /// Write blocks of this version to the volume that it has.
    #[strum(to_string = "fill {0}")]
    Fill(u32),
    /// Read the volume back.
    #[strum(to_string = "volume")]
    Volume,
}

/// Asks the agent at `address`, from the network namespace of the calling thread, until it answers.
///
/// # Errors
/// When no answer comes within `patience`, or the agent refuses.
pub fn query(address: Ipv4Addr, request: Request, patience: Duration) -> anyhow::Result<Stat> {
    query_at(SocketAddr::from((address, PORT)), request, patience)
}

/// The same where the agent's port is passed on from another address.
///
/// # Errors
/// When no answer comes within `patience`, or the agent refuses.
pub fn query_at(address: SocketAddr, request: Request, patience: Duration) -> anyhow::Result<Stat> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(REPEAT))?;
    let deadline = Instant::now() + patience;
    let mut buffer = [0; 1024];
    loop {
        // While the guest's address is nobody's the network answers with an error: not an answer either.
        let _ = socket.send_to(request.to_string().as_bytes(), address);
        let asked = Instant::now();
        if let Ok((length, _)) = socket.recv_from(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            return Stat::parse(&text).with_context(|| format!("asking {address} for {request}"));
        }
        if Instant::now() >= deadline {
            bail!("{address} did not answer {request} within {:.1} s", patience.as_secs_f64());
        }
        // An error comes at once; the next attempt shall not.
        std::thread::sleep(REPEAT.saturating_sub(asked.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_follows_from_the_mac() {
        assert_eq!(address_of("fa:16:3e:4e:01:0a"), Some(Ipv4Addr::new(10, 78, 1, 10)));
        assert_eq!(address_of("fa:16:3e:4e:01"), None);
        assert_eq!(address_of("nonsense"), None);
    }

    #[test]
    fn a_request_is_what_the_agent_reads() {
        assert_eq!(Request::WorkingSet(12).to_string(), "wset 12");
        assert_eq!(Request::Verify.to_string(), "verify");
    }
}
