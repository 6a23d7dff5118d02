//! `logs -f`: the pod set is watched, every container is followed through restarts, cuts and replacements.

mod container;
mod error;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::container::{Follower, Message};
use self::error::Error;
use super::question::{Question, Target};
use super::target::{self, Pods, Simulated};
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::logs::{LineWriter, Merger, Source, select};
use crate::output::printer::Printer;

/// How long lines are held to bring those of several pods in order.
const HOLD: Duration = Duration::from_millis(250);
/// How often is looked whether anything can still come, while nothing is followed.
const IDLE: Duration = Duration::from_secs(2);
/// Lines between the followers and the printer.
const QUEUE: usize = 1024;

/// Follows until nothing more can come, or for ever.
///
/// # Errors
/// Nothing can be selected, too many streams, a log that cannot be read and `--ignore-errors` is not given.
pub async fn run(
    question: &Question,
    cluster: &Cluster,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let selected = target::select(question, cluster, printer).await?;
    let mut session = Session::new(question, cluster, printer);
    session.first_look(&selected).await?;
    let mut changes = changes(cluster, &selected);
    loop {
        let (release_at, idle_at) = (session.release_at(), session.idle_at());
        let next = tokio::select! {
            change = changes.next() => Next::Change(change.map(Box::new)),
            message = session.messages.recv() => Next::Message(message),
            () = sleep_until(release_at) => Next::Release,
            () = sleep_until(idle_at) => Next::Idle,
        };
        match next {
            Next::Change(Some(change)) => session.change(*change).await?,
            Next::Change(None) => return Err(Error::WatchEnded.into()),
            Next::Message(message) => session.message(message)?,
            Next::Release => session.release()?,
            Next::Idle => {
                if session.is_over().await? {
                    return session.end();
                }
            }
        }
    }
}

enum Next {
    Change(Option<Box<Change>>),
    Message(Option<Message>),
    Release,
    Idle,
}

/// What happened to the pod set.
enum Change {
    Seen(Pod),
    Gone(Pod),
    Failed(watcher::Error),
}

fn changes(cluster: &Cluster, selected: &Pods) -> BoxStream<'static, Change> {
    let api: Api<Pod> = cluster.namespaced();
    watcher(api, selected.watcher())
        .default_backoff()
        .try_filter_map(|event| async move {
            Ok(match event {
                watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => {
                    Some(Change::Seen(pod))
                }
                watcher::Event::Delete(pod) => Some(Change::Gone(pod)),
                watcher::Event::Init | watcher::Event::InitDone => None,
            })
        })
        .map(|item| item.unwrap_or_else(Change::Failed))
        .boxed()
}

struct Session<'a> {
    question: &'a Question,
    cluster: &'a Cluster,
    printer: &'a Printer,
    sender: mpsc::Sender<Message>,
    messages: mpsc::Receiver<Message>,
    followers: JoinSet<()>,
    sources: Vec<Source>,
    known: HashSet<Source>,
    open: usize,
    pods: HashMap<String, Pod>,
    emulated: HashSet<String>,
    simulated: Simulated,
    merger: Merger,
    writer: LineWriter,
    held_since: Option<Instant>,
    idle_since: Instant,
    started: Instant,
    notes_told: HashSet<String>,
    failed: Option<Failure>,
}

impl<'a> Session<'a> {
    fn new(question: &'a Question, cluster: &'a Cluster, printer: &'a Printer) -> Self {
        let (sender, messages) = mpsc::channel(QUEUE);
        Self {
            question,
            cluster,
            printer,
            sender,
            messages,
            followers: JoinSet::new(),
            sources: Vec::new(),
            known: HashSet::new(),
            open: 0,
            pods: HashMap::new(),
            emulated: HashSet::new(),
            simulated: Simulated::default(),
            merger: Merger::default(),
            writer: LineWriter::new(question.shape),
            held_since: None,
            idle_since: Instant::now(),
            started: Instant::now(),
            notes_told: HashSet::new(),
            failed: None,
        }
    }

    /// The pods that are there already: too many of them is an error, as in kubectl.
    async fn first_look(&mut self, selected: &Pods) -> Result<(), Failure> {
        let pods = target::list(self.cluster, selected).await?;
        if pods.is_empty() {
            match &self.question.target {
                Target::Pod(name) => {
                    let name = name.clone();
                    return Err(Error::NotFound { name }.into());
                }
                Target::Selector(_) => {
                    let namespace = self.cluster.namespace();
                    self.printer.note(&format!(
                        "No resources found in {namespace} namespace; waiting for pods."
                    ))?;
                }
                Target::Workspace(name) | Target::Workload(_, name) => {
                    self.printer.note(&format!("waiting for pods of {name}"))?;
                }
            }
        }
        let mut count = 0;
        for pod in &pods {
            count += target::sources(self.question, pod, &mut BTreeMap::new())?.len();
        }
        if count > self.question.max_streams {
            let most = self.question.max_streams;
            return Err(Error::ManyStreams { count, most }.into());
        }
        for pod in pods {
            self.see(pod).await?;
        }
        Ok(())
    }

    async fn change(&mut self, change: Change) -> Result<(), Failure> {
        match change {
            Change::Seen(pod) => self.see(pod).await,
            Change::Gone(pod) => {
                self.pods.remove(&pod.uid().unwrap_or_default());
                self.note_once(&format!("- pod/{} is gone", pod.name_any()))
            }
            // The watch goes on by itself; only a refusal will not get better.
            Change::Failed(watcher::Error::InitialListFailed(kube::Error::Api(status)))
                if status.code == 403 =>
            {
                let reason = status.message.clone();
                Err(Error::Forbidden { reason }.into())
            }
            Change::Failed(error) => {
                self.note_once(&format!("the watch of the pods is repeated: {error}"))
            }
        }
    }

    /// Follows those containers of the pod that have started and are not followed yet.
    async fn see(&mut self, pod: Pod) -> Result<(), Failure> {
        let uid = pod.uid().unwrap_or_default();
        if self.simulated.holds(self.cluster, &pod).await {
            if self.emulated.insert(uid.clone()) {
                self.printer.note(&target::emulated_note(&pod))?;
            }
            self.pods.insert(uid, pod);
            return Ok(());
        }
        let mut notes = BTreeMap::new();
        let sources = target::sources(self.question, &pod, &mut notes)?;
        for source in sources {
            if select::has_started(&pod, &source.container) && !self.known.contains(&source) {
                self.start(source)?;
            }
        }
        for note in notes.into_keys() {
            self.note_once(&note)?;
        }
        self.pods.insert(uid, pod);
        Ok(())
    }

    fn start(&mut self, source: Source) -> Result<(), Failure> {
        if self.open >= self.question.max_streams {
            return self.note_once(&format!(
                "pod/{}/{} is not followed: {} logs are followed already, use --max-log-requests to increase the limit",
                source.pod, source.container, self.open
            ));
        }
        if self.started.elapsed() > HOLD {
            self.printer
                .note(&format!("+ pod/{}/{}", source.pod, source.container))?;
        }
        let index = self.merger.add();
        let follower = Follower {
            index,
            source: source.clone(),
            question: self.question.clone(),
            cluster: self.cluster.clone(),
            sender: self.sender.clone(),
        };
        self.followers.spawn(follower.run());
        self.known.insert(source.clone());
        self.sources.push(source);
        self.open += 1;
        Ok(())
    }

    fn message(&mut self, message: Option<Message>) -> Result<(), Failure> {
        match message {
            Some(Message::Line(index, line)) => {
                self.merger.push(index, line);
                if self.open <= 1 {
                    return self.release();
                }
                self.held_since.get_or_insert_with(Instant::now);
                Ok(())
            }
            Some(Message::Note(text)) => self.printer.note(&text),
            Some(Message::Ended(index, note)) => {
                self.ended(index);
                note.map_or(Ok(()), |note| self.printer.note(&note))
            }
            Some(Message::Failed(index, failure)) => {
                self.ended(index);
                if !self.question.ignore_errors {
                    self.release()?;
                    return Err(failure);
                }
                for line in failure.lines() {
                    self.printer.note(line)?;
                }
                self.failed.get_or_insert(failure);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn ended(&mut self, index: usize) {
        self.merger.end(index);
        self.open = self.open.saturating_sub(1);
        self.idle_since = Instant::now();
    }

    /// Prints what is held, in order.
    fn release(&mut self) -> Result<(), Failure> {
        self.held_since = None;
        let mut bytes = Vec::new();
        while let Some((index, line)) = self.merger.pop_any() {
            let Some(source) = self.sources.get(index) else {
                continue;
            };
            // A vector takes everything.
            let _ = self.writer.line(&mut bytes, index, &source.prefix(), &line);
        }
        self.printer.bytes(&bytes)?;
        self.printer.flush()
    }

    fn release_at(&self) -> Instant {
        // Without held lines the timer is set to a time that the other branches always come before.
        self.held_since.map_or_else(
            || Instant::now() + Duration::from_secs(3600),
            |since| since + HOLD,
        )
    }

    fn idle_at(&self) -> Instant {
        let rest = if self.open == 0 {
            IDLE / 4
        } else {
            Duration::from_secs(3600)
        };
        self.idle_since + rest
    }

    /// Whether nothing more can come: asked only while no log is open.
    async fn is_over(&mut self) -> Result<bool, Failure> {
        self.idle_since = Instant::now() + IDLE - IDLE / 4;
        if self.open > 0 {
            return Ok(false);
        }
        let silent =
            |uid: &String, pod: &Pod| select::has_ended(pod) || self.emulated.contains(uid);
        let all_silent = self.pods.iter().all(|(uid, pod)| silent(uid, pod));
        if !self.pods.is_empty() && all_silent {
            let any_emulated = self.pods.keys().any(|uid| self.emulated.contains(uid));
            return Ok(any_emulated || self.known_to_be_over().await);
        }
        self.check_running_timeout()?;
        let pod_is_gone = self.pods.is_empty() && matches!(self.question.target, Target::Pod(_));
        Ok(pod_is_gone
            || (self.pods.is_empty() && !self.known.is_empty() && self.workspace_is_gone().await))
    }

    fn check_running_timeout(&self) -> Result<(), Failure> {
        match self.question.running_timeout {
            Some(limit) if self.known.is_empty() && self.started.elapsed() >= limit => {
                Err(Error::NothingStarted.into())
            }
            _ => Ok(()),
        }
    }

    /// All pods have ended: a job may still start another one, a server always does.
    async fn known_to_be_over(&self) -> bool {
        match &self.question.target {
            Target::Pod(_) | Target::Selector(_) => true,
            Target::Workspace(name) | Target::Workload(_, name) => {
                self.job_is_over(name).await || self.workspace_is_gone().await
            }
        }
    }

    async fn job_is_over(&self, name: &str) -> bool {
        let api: Api<Job> = self.cluster.namespaced();
        let Ok(job) = self.cluster.attempt(api.get(name)).await else {
            return false;
        };
        job.status
            .and_then(|status| status.conditions)
            .unwrap_or_default()
            .iter()
            .any(|condition| {
                matches!(condition.type_.as_str(), "Complete" | "Failed")
                    && condition.status == "True"
            })
    }

    async fn workspace_is_gone(&self) -> bool {
        let Target::Workspace(name) = &self.question.target else {
            return false;
        };
        let found = self.cluster.find("get workspaces.kaito.sh", async {
            self.cluster.workspaces().get(name).await
        });
        matches!(found.await, Ok(None))
    }

    fn note_once(&mut self, text: &str) -> Result<(), Failure> {
        if self.notes_told.insert(text.to_owned()) {
            self.printer.note(text)
        } else {
            Ok(())
        }
    }

    fn end(mut self) -> Result<Exit, Failure> {
        self.release()?;
        let mut rest = Vec::new();
        let _ = self.writer.finish(&mut rest);
        self.printer.bytes(&rest)?;
        self.printer.flush()?;
        Ok(Exit::Success)
    }
}
