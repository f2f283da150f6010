//! The guest boots from its disk, beats, and finds what is wrong with its memory and disk.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use whimbrel_lab::guest::{self, GuestImage, Heartbeat, Request, Stat};
use whimbrel_lab::{Deadline, until};

const BOOT: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(30);
const MAC: &str = "fa:16:3e:4e:00:09";

fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.lab/cache")
}

/// A guest on this machine, without libvirt: QEMU's own network passes the agent's port on.
struct Guest {
    qemu: Child,
    folder: PathBuf,
    disk: PathBuf,
    port: u16,
}

impl Guest {
    fn create(image: &GuestImage, name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("whimbrel-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let disk = folder.join("disk.qcow2");
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([&image.raw, &disk])
            .status()
            .unwrap();
        assert!(made.success());
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let qemu = start(&folder, &disk, port);
        Self { qemu, folder, disk, port }
    }

    fn console(&self) -> String {
        let bytes = fs::read(self.folder.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn heartbeat(&self, after: u64) -> Heartbeat {
        let beat = until(Deadline::after(BOOT), "a heartbeat", || {
            Ok(Heartbeat::last_of(&self.console()).filter(|beat| beat.n > after))
        });
        beat.unwrap_or_else(|error| panic!("{error:#}: {}", self.console()))
    }

    fn ask(&self, request: Request) -> Stat {
        guest::query_at((Ipv4Addr::LOCALHOST, self.port).into(), request, ANSWER).unwrap()
    }

    fn boot_again(&mut self) {
        self.qemu.kill().unwrap();
        self.qemu.wait().unwrap();
        fs::remove_file(self.folder.join("console")).unwrap();
        self.qemu = start(&self.folder, &self.disk, self.port);
    }
}

/// Presses the power button of the machine, as libvirt does when a guest is to shut down.
fn press_power_button(folder: &Path) {
    let mut qmp = UnixStream::connect(folder.join("qmp")).unwrap();
    let mut answers = BufReader::new(qmp.try_clone().unwrap()).lines();
    answers.next().unwrap().unwrap();
    for command in ["qmp_capabilities", "system_powerdown"] {
        writeln!(qmp, "{{\"execute\": \"{command}\"}}").unwrap();
        answers.next().unwrap().unwrap();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn start(folder: &Path, disk: &Path, port: u16) -> Child {
    let address = guest::address_of(MAC).unwrap();
    let network = format!(
        "user,model=virtio-net-pci,mac={MAC},net=10.78.0.0/16,hostfwd=udp:127.0.0.1:{port}-{address}:{}",
        guest::PORT
    );
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg", "-m", "128"])
        .args(["-display", "none", "-nodefaults", "-no-reboot", "-nic", &network])
        .args(["-drive", &format!("file={},if=virtio,format=qcow2", disk.display())])
        .args(["-serial", &format!("file:{}", folder.join("console").display())])
        .args(["-qmp", &format!("unix:{},server,nowait", folder.join("qmp").display())])
        .spawn()
        .unwrap()
}

#[test]
fn the_guest_boots_from_its_disk_and_what_it_writes_stays_intact() {
    let begun = Instant::now();
    let image = guest::prepare(&cache()).unwrap();
    println!("image there after {:?}", begun.elapsed());
    let begun = Instant::now();
    let mut guest = Guest::create(&image, "guest");
    let first = guest.heartbeat(0);
    println!("first heartbeat after {:?}", begun.elapsed());

    let idle = guest.ask(Request::Stat);
    assert_eq!(idle.boot, first.boot);
    guest.ask(Request::WorkingSet(32));
    guest.ask(Request::Rate(40));
    guest.ask(Request::Disk(200));
    let busy = until(Deadline::after(BOOT), "pages and blocks", || {
        let stat = guest.ask(Request::Stat);
        Ok((stat.pages_written > 20_000 && stat.blocks_written > 300).then_some(stat))
    });
    assert_eq!(busy.unwrap().working_set_mib, 32);

    let begun = Instant::now();
    let verified = guest.ask(Request::Verify);
    println!("verified in {:?}: {verified:?}", begun.elapsed());
    assert!(verified.is_intact());
    assert_eq!(verified.verified_pages, 32 * 256);
    assert!(verified.verified_blocks > 200);
    assert!(guest.heartbeat(first.n + 5).boot == first.boot);

    // What an earlier boot has written is checked as well, and a new boot is told from it.
    guest.boot_again();
    let again = guest.heartbeat(0);
    assert_ne!(again.boot, first.boot);
    let verified = guest.ask(Request::Verify);
    assert!(verified.is_intact());
    assert!(verified.verified_blocks > 200, "{verified:?}");

    press_power_button(&guest.folder);
    let begun = Instant::now();
    let off =
        until(Deadline::after(ANSWER), "the guest to turn off", || Ok(guest.qemu.try_wait()?));
    assert!(off.unwrap().success());
    println!("turned off in {:?}", begun.elapsed());
}

#[test]
fn the_guest_finds_a_damaged_block_and_refuses_what_it_cannot_do() {
    let image = guest::prepare(&cache()).unwrap();
    let mut guest = Guest::create(&image, "damage");
    guest.heartbeat(0);
    guest.ask(Request::Disk(500));
    until(Deadline::after(BOOT), "blocks", || {
        Ok((guest.ask(Request::Stat).blocks_written > 500).then_some(()))
    })
    .unwrap();
    guest.ask(Request::Disk(0));
    // Flushes as well: without that QEMU may still keep the places of new blocks to itself.
    assert!(guest.ask(Request::Verify).is_intact());
    let address = (Ipv4Addr::LOCALHOST, guest.port).into();
    assert!(guest::query_at(address, Request::WorkingSet(4096), ANSWER).is_err());

    guest.qemu.kill().unwrap();
    guest.qemu.wait().unwrap();
    // One byte within the data partition: found by looking for the mark with which each block begins.
    let raw = guest.folder.join("disk.raw");
    let convert = ["convert", "-f", "qcow2", "-O", "raw"];
    let made = Command::new("qemu-img").args(convert).args([&guest.disk, &raw]).status().unwrap();
    assert!(made.success());
    let mut bytes = fs::read(&raw).unwrap();
    let mark = b"LERBMIHW";
    let data = 128 * 1024 * 1024;
    let block = (data..bytes.len()).step_by(4096).find(|at| &bytes[*at..at + 8] == mark).unwrap();
    bytes[block + 800] ^= 1;
    fs::write(&raw, bytes).unwrap();
    let convert = ["convert", "-f", "raw", "-O", "qcow2"];
    let made = Command::new("qemu-img").args(convert).args([&raw, &guest.disk]).status().unwrap();
    assert!(made.success());

    guest.boot_again();
    guest.heartbeat(0);
    let verified = guest.ask(Request::Verify);
    assert_eq!(verified.block_errors, 1, "{verified:?}");
}
