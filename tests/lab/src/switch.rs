//! The switch between the hosts: a network namespace with two bridges, one for management and migrations,
//! one for the guests. Each lab has its own, so labs don't see each other although addresses are the same.
//!
//! ```text
//!              switch namespace                          namespace of host-a
//!   brm 10.77.0.1/24 ── m-host-a ───────────────── eth0 10.77.0.11
//!   brt 10.78.0.1/16 ── t-host-a ───────────────── eth1 ── bridge brt ── guests' taps
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use anyhow::{Context, ensure};
use nix::unistd::Pid;

use crate::host::Host;
use crate::netns;
use crate::process::{Prepared, Process, Spawner, run};

/// The switch's own address on the management network, where hosts reach broker and API.
pub const SWITCH_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The guests' network.
pub const TENANT_CIDR: &str = "10.78.0.0/16";

/// A host's cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Management, migrations.
    Management,
    /// The guests'.
    Tenant,
}

impl Link {
    /// The cable's end at the switch.
    fn at_switch(self, host: &str) -> String {
        match self {
            Self::Management => format!("m-{host}"),
            Self::Tenant => format!("t-{host}"),
        }
    }

    fn bridge(self) -> &'static str {
        match self {
            Self::Management => "brm",
            Self::Tenant => "brt",
        }
    }

    fn at_host(self) -> &'static str {
        match self {
            Self::Management => "eth0",
            Self::Tenant => "eth1",
        }
    }
}

/// The switch.
#[derive(Debug)]
pub struct Switch {
    holder: Process,
}

impl Switch {
    pub(crate) fn start(spawner: &Spawner, logs: &Path) -> anyhow::Result<Self> {
        let holder = Prepared::new("sleep").args(["infinity"]).inside(["unshare", "--net"]);
        let holder = spawner.start("switch", holder, &logs.join("switch.log"))?;
        let switch = Self { holder };
        switch.wait_for_namespace()?;
        switch.ip("link set lo up")?;
        // A bridge without a hardware address of its own takes one of its ports', and another when that port
        // goes: the death of one host would cut the others off until they asked who has the address now.
        for (bridge, mac, address) in [
            ("brm", "02:77:00:00:00:01", "10.77.0.1/24"),
            ("brt", "02:78:00:00:00:01", "10.78.0.1/16"),
        ] {
            // Without spanning tree a port forwards at once.
            switch.ip(&format!(
                "link add {bridge} address {mac} type bridge stp_state 0 forward_delay 0"
            ))?;
            switch.ip(&format!("addr add {address} dev {bridge}"))?;
            switch.ip(&format!("link set {bridge} up"))?;
        }
        Ok(switch)
    }

    fn wait_for_namespace(&self) -> anyhow::Result<()> {
        let own = std::fs::read_link("/proc/self/ns/net").context("reading the own namespace")?;
        let path = format!("/proc/{}/ns/net", self.holder.id());
        let deadline = crate::wait::Deadline::after(std::time::Duration::from_secs(5));
        crate::wait::until(deadline, "the switch's namespace", || {
            let status = self.holder.exited()?;
            ensure!(status.is_none(), "unshare ended at once; see switch.log (is this root?)");
            let theirs = std::fs::read_link(&path).ok();
            Ok(theirs.filter(|theirs| *theirs != own).map(|_| ()))
        })
    }

    /// A process in its namespace.
    pub(crate) fn process_id(&self) -> Pid {
        self.holder.id()
    }

    /// Plugs a host in; `host_pid` is any process in its network namespace.
    pub(crate) fn plug(&self, host: &str, host_pid: Pid, link: Link) -> anyhow::Result<()> {
        let (near, far) = (link.at_switch(host), link.at_host());
        // A host that died a moment ago may have left its end for the kernel to take away.
        let _ = self.ip(&format!("link del {near}"));
        self.ip(&format!("link add {near} type veth peer name {far} netns {host_pid}"))?;
        self.ip(&format!("link set {near} master {}", link.bridge()))?;
        self.ip(&format!("link set {near} up"))
    }

    /// Cuts a cable.
    pub(crate) fn cut(&self, host: &str, link: Link) -> anyhow::Result<()> {
        self.ip(&format!("link set {} down", link.at_switch(host)))
    }

    /// Mends it.
    pub(crate) fn heal(&self, host: &str, link: Link) -> anyhow::Result<()> {
        self.ip(&format!("link set {} up", link.at_switch(host)))
    }

    /// Limits a cable in both directions; `None` lifts the limit.
    pub(crate) fn limit(&self, host: &Host, link: Link, mib_s: Option<u32>) -> anyhow::Result<()> {
        let Some(rate) = mib_s else {
            // Fails where there is none, which is what was wanted.
            let _ = self.run(&["tc", "qdisc", "del", "dev", &link.at_switch(host.name()), "root"]);
            let _ = host.run(&["tc", "qdisc", "del", "dev", link.at_host(), "root"]);
            return Ok(());
        };
        ensure!(rate > 0, "a limit is at least 1 MiB/s; cut the link for none at all");
        // 10 ms at full rate, but at least one packet as large as offloading makes them.
        let burst = (u64::from(rate) * 1024 * 1024 / 100).max(128 * 1024);
        let rate = u64::from(rate) * 8 * 1024 * 1024;
        let shape = format!("root tbf rate {rate}bit burst {burst}b latency 100ms");
        let words = |device: &str| format!("tc qdisc replace dev {device} {shape}");
        self.run(&words(&link.at_switch(host.name())).split(' ').collect::<Vec<_>>())?;
        host.run(&words(link.at_host()).split(' ').collect::<Vec<_>>())?;
        Ok(())
    }

    /// A UDP socket on the switch that receives only from `peer`.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn udp_to(&self, peer: SocketAddr) -> anyhow::Result<UdpSocket> {
        self.inside(|| {
            let socket =
                UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("opening a UDP socket")?;
            socket.connect(peer).with_context(|| format!("aiming at {peer}"))?;
            Ok(socket)
        })
    }

    /// Listens on the management network.
    pub(crate) fn listen(&self, port: u16) -> anyhow::Result<TcpListener> {
        self.inside(|| {
            TcpListener::bind((IpAddr::V4(SWITCH_ADDRESS), port))
                .with_context(|| format!("listening on {SWITCH_ADDRESS}:{port}"))
        })
    }

    /// Does something in the switch's network namespace.
    pub(crate) fn inside<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        netns::inside(self.holder.id(), work)
    }

    /// Runs a program in the switch's network namespace and returns what it says.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let (program, arguments) = words.split_first().context("no program")?;
        run(&Prepared::new(*program).args(arguments.iter().copied()).inside(self.enter()))
    }

    fn enter(&self) -> Vec<String> {
        vec!["nsenter".into(), "-t".into(), self.holder.id().to_string(), "-n".into(), "--".into()]
    }

    pub(crate) fn ip(&self, words: &str) -> anyhow::Result<()> {
        let words: Vec<&str> = std::iter::once("ip").chain(words.split(' ')).collect();
        self.run(&words).map(drop)
    }

    pub(crate) fn stop(&self) -> anyhow::Result<()> {
        self.holder.kill().map(drop)
    }
}
