//! A whole Whimbrel on one machine: servers, hosts, services, and what tests do to them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};

use crate::api::Api;
use crate::builder::{self, Driver, LabBuilder};
use crate::cloud::{Cloud, remove_dir};
use crate::config_files::{self, Addresses, MigrationTuning, VirtType};
use crate::forward::Forwarder;
use crate::host::{Host, Storage, name_of};
use crate::kvm;
use crate::process::Spawner;
use crate::servers::Servers;
use crate::services::Services;
use crate::switch::Switch;
use crate::unit::{Replica, Unit};
use crate::wait::{Deadline, until};

/// How long services may take until they answer.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// A running lab. Dropping it ends everything in it, however the process that owns it ends.
#[derive(Debug)]
pub struct Lab {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) logs: PathBuf,
    keep_logs: bool,
    host_names: Vec<String>,
    driver: Driver,
    replicas: u8,
    virt_type: VirtType,
    tuning: Mutex<Tuning>,
    addresses: Addresses,
    api: Api,
    // In the order in which they are to end.
    pub(crate) services: Services,
    pub(crate) broker_forwarder: Option<Forwarder>,
    pub(crate) api_forwarder: Option<Forwarder>,
    pub(crate) cloud: Option<Cloud>,
    servers: Option<Servers>,
    pub(crate) spawner: Arc<Spawner>,
}

/// What can be changed while the lab runs.
#[derive(Clone, Debug)]
struct Tuning {
    storage: Storage,
    migration: MigrationTuning,
}

impl Lab {
    /// Describes a lab: two real hosts with shared storage unless told otherwise.
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    pub(crate) fn start(plan: LabBuilder) -> anyhow::Result<Self> {
        remove_old_labs(&plan.labs_dir);
        let dir = plan.labs_dir.join(&plan.name);
        remove_dir(&dir)?;
        let logs = dir.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| format!("creating {}", logs.display()))?;
        let spawner = Arc::new(Spawner::new()?);
        let real = plan.driver == Driver::Libvirt;
        let virt_type = match plan.virt_type {
            Some(given) => given,
            None if real => kvm::detect(&spawner, &plan.labs_dir.join("cache"))?,
            None => VirtType::Qemu,
        };
        let services = Services::new(&dir, &logs, Arc::clone(&spawner))?;
        let (servers, cloud) = std::thread::scope(|scope| {
            let servers = scope.spawn(|| Servers::start(&dir.join("servers"), plan.durability));
            let cloud = real.then(|| Cloud::start(plan.hosts, &dir, &logs, &spawner)).transpose();
            (servers.join(), cloud)
        });
        let servers = servers.map_err(|_| anyhow!("the start of the servers panicked"))??;
        let cloud = cloud?;
        let addresses = Addresses {
            database_url: servers.database_url(),
            broker_url: servers.amqp_url("/"),
            api_port: crate::servers::free_ports::<1>()?[0],
        };
        let forward = |port, to| {
            let cloud: &Cloud = cloud.as_ref()?;
            Some(cloud.switch().listen(port).and_then(|socket| Forwarder::start(socket, to)))
        };
        let broker_forwarder =
            forward(config_files::BROKER_PORT, servers.broker().port()).transpose()?;
        let api_forwarder = forward(config_files::API_PORT, addresses.api_port).transpose()?;
        let lab = Self {
            api: Api::new(&format!("http://127.0.0.1:{}", addresses.api_port))?,
            name: plan.name,
            dir,
            logs,
            keep_logs: plan.keep_logs,
            host_names: (0..plan.hosts).map(name_of).collect(),
            driver: plan.driver,
            replicas: plan.replicas,
            virt_type,
            tuning: Mutex::new(Tuning { storage: plan.storage, migration: plan.migration }),
            addresses,
            services,
            broker_forwarder,
            api_forwarder,
            cloud,
            servers: Some(servers),
            spawner,
        };
        lab.start_services()?;
        Ok(lab)
    }

    fn start_services(&self) -> anyhow::Result<()> {
        self.services.migrate_database(&self.addresses.database_url)?;
        let images = self.dir.join("images");
        std::fs::create_dir_all(&images).context("creating the directory of images")?;
        self.services.configure(&Unit::Api, &config_files::api(&self.addresses, &images)?)?;
        for unit in self.own_units() {
            let text = match unit {
                Unit::Conductor | Unit::Replica(Replica::Conductor, _) => {
                    config_files::conductor(&self.addresses)?
                }
                Unit::Scheduler | Unit::Replica(Replica::Scheduler, _) => {
                    config_files::scheduler(&self.addresses)?
                }
                _ => continue,
            };
            self.services.configure(&unit, &text)?;
        }
        for unit in self.own_units() {
            self.start_unit(&unit)?;
        }
        self.wait_until_ready()?;
        self.services.keep()
    }

    /// Whimbrel's own services in this lab.
    pub(crate) fn own_units(&self) -> Vec<Unit> {
        let computes = self.host_names.iter().map(|host| Unit::compute(host));
        let replicas = (2..=self.replicas).flat_map(|number| {
            [Replica::Conductor, Replica::Scheduler].map(|kind| Unit::Replica(kind, number))
        });
        let first = [Unit::Api, Unit::Conductor, Unit::Scheduler].into_iter();
        first.chain(replicas).chain(computes).collect()
    }

    /// Waits until the API answers and all hosts report.
    fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = Deadline::after(READY_PATIENCE);
        until(deadline, "the API to answer", || {
            self.services.check(&Unit::Api)?;
            Ok(self.api.is_ready().then_some(()))
        })?;
        for host in &self.host_names {
            self.wait_until_host_reports(host, deadline, || {
                self.own_units().iter().try_for_each(|unit| self.services.check(unit))
            })?;
        }
        Ok(())
    }

    pub(crate) fn wait_until_host_reports(
        &self,
        host: &str,
        deadline: Deadline,
        check: impl Fn() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        until(deadline, &format!("{host} to report"), || {
            check()?;
            let services = self.api.compute_services()?;
            let up = services.iter().any(|service| service.host == host && service.state == "up");
            Ok(up.then_some(()))
        })
    }

    /// Starts one of Whimbrel's services; does nothing if it runs.
    pub(crate) fn start_unit(&self, unit: &Unit) -> anyhow::Result<()> {
        let Unit::Compute(name) = unit else { return self.services.start(unit, Ok) };
        let tuning = self.tuning().clone();
        if let Driver::Fake(fake) = &self.driver {
            let state = self.dir.join("hosts").join(name).join("state");
            std::fs::create_dir_all(&state).context("creating a state directory")?;
            let text = config_files::fake_compute(&self.addresses, name, &state, fake)?;
            self.services.configure(unit, &text)?;
            return self.services.start(unit, Ok);
        }
        let host = self.host(name)?;
        let text = config_files::compute(
            host,
            tuning.storage,
            self.virt_type,
            &tuning.migration,
            &self.addresses.broker_url,
        )?;
        self.services.configure(unit, &text)?;
        self.services.start(unit, |command| host.prepare(command))
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the logs are.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// The HTTP API.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The names of the hosts.
    pub fn host_names(&self) -> &[String] {
        &self.host_names
    }

    /// A real host.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn host(&self, name: &str) -> anyhow::Result<&Arc<Host>> {
        self.cloud()?.host(name)
    }

    /// All real hosts.
    pub fn hosts(&self) -> &[Arc<Host>] {
        self.cloud.as_ref().map(Cloud::hosts).unwrap_or_default()
    }

    /// The switch between the real hosts.
    ///
    /// # Errors
    /// When the hosts are simulated.
    pub fn switch(&self) -> anyhow::Result<&Switch> {
        Ok(self.cloud()?.switch())
    }

    pub(crate) fn cloud(&self) -> anyhow::Result<&Cloud> {
        self.cloud.as_ref().context("the hosts of this lab are simulated")
    }

    /// `postgres://…`, for checks that look into the database.
    pub fn database_url(&self) -> &str {
        &self.addresses.database_url
    }

    /// `amqp://…`, for checks that look into queues.
    pub fn broker_url(&self) -> &str {
        &self.addresses.broker_url
    }

    /// PostgreSQL and RabbitMQ.
    ///
    /// # Errors
    /// Never while the lab runs.
    pub fn servers(&self) -> anyhow::Result<&Servers> {
        self.servers.as_ref().context("the servers have ended")
    }

    /// How guests' instructions are carried out.
    pub fn virt_type(&self) -> VirtType {
        self.virt_type
    }

    /// Where new guests' disks are.
    pub fn storage(&self) -> Storage {
        self.tuning().storage
    }

    /// Moves all hosts to another kind of storage: their compute services start anew. There should be no
    /// guests.
    ///
    /// # Errors
    /// When a service doesn't come up again.
    pub fn set_storage(&self, storage: Storage) -> anyhow::Result<()> {
        self.tuning().storage = storage;
        self.restart_computes()
    }

    /// Changes how moves go: the compute services start anew.
    ///
    /// # Errors
    /// When a service doesn't come up again.
    pub fn set_migration(&self, migration: MigrationTuning) -> anyhow::Result<()> {
        self.tuning().migration = migration;
        self.restart_computes()
    }

    fn restart_computes(&self) -> anyhow::Result<()> {
        ensure!(self.driver == Driver::Libvirt, "the hosts of this lab are simulated");
        let units: Vec<Unit> = self.host_names.iter().map(|host| Unit::compute(host)).collect();
        for unit in &units {
            self.services.stop(unit)?;
        }
        let stopped = self.api.compute_services()?;
        for unit in &units {
            self.start_unit(unit)?;
        }
        let deadline = Deadline::after(READY_PATIENCE);
        until(deadline, "the restarted hosts to report", || {
            let fresh = self.api.compute_services()?;
            let anew = stopped.iter().all(|old| {
                let new = fresh.iter().find(|new| new.host == old.host);
                new.is_some_and(|new| new.state == "up" && new.updated_at != old.updated_at)
            });
            Ok(anew.then_some(()))
        })
    }

    fn tuning(&self) -> MutexGuard<'_, Tuning> {
        self.tuning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything in the lab and removes its directory, except for logs that are to be kept.
    ///
    /// # Errors
    /// When something doesn't end; everything else has ended nevertheless.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.services.stop_all();
        (self.broker_forwarder, self.api_forwarder) = (None, None);
        let hosts = self.cloud.take().map_or(Ok(()), |cloud| cloud.stop());
        let servers = self.servers.take().map_or(Ok(()), Servers::remove);
        for part in ["hosts", "shared", "images", "config", "servers"] {
            remove_dir(&self.dir.join(part))?;
        }
        // After a panic they are what tells why.
        if !self.keep_logs && !std::thread::panicking() {
            remove_dir(&self.dir)?;
        }
        hosts.and(servers)
    }
}

/// Removes what unnamed labs of processes have left that were killed, or that panicked a day ago or more.
pub(crate) fn remove_old_labs(labs: &Path) {
    let day = Duration::from_secs(24 * 3600);
    for entry in std::fs::read_dir(labs).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(builder::owner_of);
        let gone = owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists());
        let changed = entry.metadata().and_then(|metadata| metadata.modified());
        let old = changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > day));
        if gone && old {
            let _ = remove_dir(&entry.path());
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.servers.is_some() {
            let _ = self.end();
        }
    }
}
