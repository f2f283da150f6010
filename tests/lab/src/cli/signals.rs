//! Ctrl-C and its relatives: what is under way fails with "interrupted", which lets everything be cleaned up.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// From now on SIGINT, SIGTERM and SIGHUP interrupt; then `wake` is called. At the second signal the process
/// ends at once, and the kernel ends what it has started.
pub(super) fn interrupt_on_signals(wake: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("making a runtime for signals")?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        )
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                if whimbrel_lab::is_interrupted() {
                    std::process::exit(130);
                }
                whimbrel_lab::interrupt();
                wake();
            }
        });
    })?;
    Ok(())
}
