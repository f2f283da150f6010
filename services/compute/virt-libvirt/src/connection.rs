//! The connection to libvirt: threads of its own for calls that block, and a new connection when libvirt
//! was restarted.
//!
//! ```text
//! task on the runtime --call(closure)--> queue --> call thread --> libvirt
//!                     <----- oneshot -------------------'
//! event loop thread --> callbacks --> broadcast --> whoever follows a migration or waits for a shutdown
//! ```
//!
//! A migration blocks its call for as long as it takes, so it gets a thread and a connection for itself:
//! libvirt handles only a few calls of one client at once, and those must stay free for the abort.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, oneshot};
use virt::connect::Connect;
use whimbrel_virt::DriverError;

use crate::config::LibvirtConfig;
use crate::error::Doing;
use crate::raw::{self, DomainEvent};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// How long another host's libvirt may take for an answer.
const OTHER_HOST: Duration = Duration::from_secs(10);
/// Events that a slow listener may lag behind; it then looks at the domain itself.
const EVENT_BACKLOG: usize = 1024;

type Task = Box<dyn FnOnce(&Shared) + Send>;

/// The way to libvirt, for the whole driver.
#[derive(Clone)]
pub(crate) struct Hypervisor {
    tasks: mpsc::Sender<Task>,
    shared: Arc<Shared>,
}

struct Shared {
    uri: String,
    keepalive: (i32, u32),
    call_timeout: Duration,
    events: broadcast::Sender<DomainEvent>,
    slot: Mutex<Slot>,
}

/// The one connection that all call threads share, or when to try to open one again.
struct Slot {
    open: Option<Arc<OpenConnection>>,
    retry_at: Option<Instant>,
    delay: Duration,
    last_error: String,
}

/// A connection that closes itself. `virt`'s own does not.
pub(crate) struct OpenConnection {
    connect: Connect,
    event_ids: Vec<std::ffi::c_int>,
}

impl OpenConnection {
    /// The connection.
    pub(crate) fn connect(&self) -> &Connect {
        &self.connect
    }

    /// Whether libvirt is still at the other end, as far as is known without asking.
    pub(crate) fn is_alive(&self) -> bool {
        self.connect.is_alive().unwrap_or(false)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        // A registration holds the connection, so it would never be closed otherwise.
        raw::deregister_domain_events(&self.connect, &self.event_ids);
        if let Err(error) = self.connect.close() {
            tracing::debug!(error = error.message(), "closing the connection to libvirt");
        }
    }
}

impl Hypervisor {
    /// Starts the threads. Nothing is opened yet, so libvirt need not run.
    pub(crate) fn new(config: &LibvirtConfig) -> Result<Self, DriverError> {
        start_event_loop()?;
        let (tasks, queue) = mpsc::channel::<Task>();
        let shared = Arc::new(Shared {
            uri: config.uri.clone(),
            keepalive: (config.keepalive_interval_s, config.keepalive_count),
            call_timeout: Duration::from_millis(config.call_timeout_ms),
            events: broadcast::channel(EVENT_BACKLOG).0,
            slot: Mutex::new(Slot {
                open: None,
                retry_at: None,
                delay: FIRST_RETRY,
                last_error: String::new(),
            }),
        });
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..config.call_threads {
            let (queue, shared) = (Arc::clone(&queue), Arc::clone(&shared));
            thread::Builder::new()
                .name(format!("libvirt-{number}"))
                .spawn(move || run_calls(&queue, &shared))
                .doing("start a thread for calls to libvirt")?;
        }
        Ok(Self { tasks, shared })
    }

    /// What libvirt says of domains from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<DomainEvent> {
        self.shared.events.subscribe()
    }

    /// Carries out `work` on a thread that may block.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connect) -> Result<T, DriverError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let (answer, answered) = oneshot::channel();
        let task: Task = Box::new(move |shared| {
            // A caller that went away meanwhile wants nothing done.
            if !answer.is_closed() {
                let _ = answer.send(shared.run(work));
            }
        });
        let gone = || DriverError::Unavailable(format!("{doing}: no thread to do it"));
        self.tasks.send(task).map_err(|_| gone())?;
        match tokio::time::timeout(self.shared.call_timeout, answered).await {
            Ok(answered) => answered.map_err(|_| gone())?,
            Err(_) => Err(DriverError::Unavailable(format!(
                "{doing}: no answer within {} s",
                self.shared.call_timeout.as_secs()
            ))),
        }
    }

    /// Runs `work` on a new thread with a connection of its own, for as long as it takes.
    pub(crate) fn long_call<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&OpenConnection) -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, DriverError>>, DriverError> {
        let (answer, answered) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let outcome = open(&shared.uri, shared.keepalive).map(|open| work(&open));
                let _ = answer.send(outcome);
            })
            .doing("start a thread for a long call to libvirt")?;
        Ok(answered)
    }

    /// Asks another host's libvirt, on a thread and a connection of their own, which are given up after a while.
    pub(crate) async fn call_other_host<T: Send + 'static>(
        &self,
        uri: &str,
        work: impl FnOnce(&Connect) -> Result<T, DriverError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let (answer, answered) = oneshot::channel();
        let (uri, keepalive) = (uri.to_owned(), self.shared.keepalive);
        let asked = uri.clone();
        thread::Builder::new()
            .name("libvirt-remote".to_owned())
            .spawn(move || {
                let outcome = open(&uri, keepalive).and_then(|open| work(open.connect()));
                let _ = answer.send(outcome);
            })
            .doing("start a thread for a call to another host's libvirt")?;
        match tokio::time::timeout(OTHER_HOST, answered).await {
            Ok(Ok(outcome)) => outcome,
            _ => Err(DriverError::Unavailable(format!("no answer from {asked}"))),
        }
    }
}

impl Shared {
    fn run<T>(
        &self,
        work: impl FnOnce(&Connect) -> Result<T, DriverError>,
    ) -> Result<T, DriverError> {
        let open = self.connection()?;
        let outcome = work(open.connect());
        match outcome {
            // Whatever it said, a connection that broke meanwhile has not carried the answer.
            Err(DriverError::Hypervisor { doing, message }) if !open.is_alive() => {
                Err(DriverError::Unavailable(format!("{doing}: {message}")))
            }
            outcome => outcome,
        }
    }

    /// The open connection, or a new one if there is none and it is time to try again.
    fn connection(&self) -> Result<Arc<OpenConnection>, DriverError> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = slot.open.take_if(|open| !open.is_alive()) {
            tracing::warn!(libvirt.uri = self.uri, "the connection to libvirt is lost");
            drop(open);
        }
        if let Some(open) = &slot.open {
            return Ok(Arc::clone(open));
        }
        if slot.retry_at.is_some_and(|at| Instant::now() < at) {
            return Err(DriverError::Unavailable(slot.last_error.clone()));
        }
        match self.open_with_events() {
            Ok(open) => {
                tracing::info!(libvirt.uri = self.uri, "connected to libvirt");
                let open = Arc::new(open);
                slot.open = Some(Arc::clone(&open));
                slot.retry_at = None;
                slot.delay = FIRST_RETRY;
                Ok(open)
            }
            Err(error) => {
                slot.retry_at = Some(Instant::now() + slot.delay);
                slot.delay = (slot.delay * 2).min(LAST_RETRY);
                if let DriverError::Unavailable(text) = &error {
                    slot.last_error.clone_from(text);
                }
                Err(error)
            }
        }
    }

    fn open_with_events(&self) -> Result<OpenConnection, DriverError> {
        let mut open = open(&self.uri, self.keepalive)?;
        open.event_ids = raw::register_domain_events(&open.connect, &self.events)
            .doing("register for libvirt's events")?;
        Ok(open)
    }
}

fn open(uri: &str, keepalive: (i32, u32)) -> Result<OpenConnection, DriverError> {
    let connect = Connect::open(Some(uri))
        .map_err(|error| DriverError::Unavailable(format!("{uri}: {}", error.message())))?;
    let open = OpenConnection { connect, event_ids: Vec::new() };
    // A driver without a daemon (test:///default) has no use for it.
    if let Err(error) = open.connect.set_keep_alive(keepalive.0, keepalive.1) {
        tracing::debug!(error = error.message(), "no keepalive on the connection to libvirt");
    }
    Ok(open)
}

/// Ends when the driver, which holds the other end of the queue, is gone.
fn run_calls(queue: &Mutex<mpsc::Receiver<Task>>, shared: &Shared) {
    loop {
        let task = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match task {
            Ok(task) => task(shared),
            Err(mpsc::RecvError) => return,
        }
    }
}

/// libvirt wants its event loop registered before the first connection is opened, once per process.
fn start_event_loop() -> Result<(), DriverError> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        virt::error::clear_error_callback();
        virt::event::event_register_default_impl().map_err(|error| error.message().to_owned())?;
        let run = || {
            loop {
                if let Err(error) = virt::event::event_run_default_impl() {
                    tracing::warn!(error = error.message(), "libvirt's event loop");
                    thread::sleep(FIRST_RETRY);
                }
            }
        };
        thread::Builder::new()
            .name("libvirt-events".to_owned())
            .spawn(run)
            .map(drop)
            .map_err(|error| error.to_string())
    });
    started
        .clone()
        .map_err(|message| DriverError::Hypervisor { doing: "start libvirt's event loop", message })
}
