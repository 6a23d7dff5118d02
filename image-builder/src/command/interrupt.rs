//! Ctrl-C and SIGTERM: how a run is told to stop, and what is said then.

use std::sync::{Arc, Mutex, PoisonError};

use super::failure::{Exit, Failure};
use super::flags::Shown;
use crate::progress::{Event, Progress, Size, Tally};

/// Shows progress and counts it, to tell at an interruption what is finished.
pub(crate) struct Counted {
    shown: Mutex<Option<Shown>>,
    progress: Arc<dyn Progress>,
    tally: Mutex<Tally>,
}

impl Counted {
    pub(crate) fn new(shown: Shown) -> Self {
        Self {
            progress: shown.progress.clone(),
            shown: Mutex::new(Some(shown)),
            tally: Mutex::default(),
        }
    }

    /// Takes bars off the screen.
    pub(crate) fn end(&self) {
        self.shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    pub(crate) fn interruption(&self) -> Failure {
        self.end();
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = Failure::message("interrupted").with_exit(Exit::Interrupted);
        if tally.count() == 0 {
            return failure.with_line("Nothing was written.");
        }
        let finished = tally.moved() + tally.mounted() + tally.present();
        failure.with_line(format!(
            "{} of {} blobs ({} of {}) are finished and stay; nothing was tagged. Run the same command again to go on with \
             the rest.",
            tally.finished(),
            tally.count(),
            Size(finished),
            Size(tally.total()),
        ))
    }
}

impl Progress for Counted {
    fn event(&self, event: Event) {
        self.tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .apply(&event);
        self.progress.event(event);
    }
}

/// Resolves at Ctrl-C or SIGTERM.
pub(crate) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut interrupt), Ok(mut terminate)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
