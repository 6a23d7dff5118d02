//! `logs`: what the pods of a Workspace (or a pod, a workload, a selector) write.
//!
//! [`question`] checks the flags, [`target`] finds the pods, [`stream`] opens one container's log, [`fetch`] prints
//! what is there and ends, [`follow`] stays.

pub mod fetch;
pub mod follow;
pub mod question;
pub mod stream;
pub mod target;

use crate::Context;
use crate::cli::duration::{self, GoDuration};
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};

/// Flags of `logs`: those of `kubectl logs`.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  # The log of a Workspace's pods, merged by time
  kubectl kaito logs phi

  # Follow it, also into pods that replace others
  kubectl kaito logs -f phi --prefix

  # The run before the last restart
  kubectl kaito logs -p phi --tail 50

Unlike kubectl logs, --tail is -1 with a selector too, all pods of a Workspace are read, and their lines are merged by
time.")]
pub struct Args {
    /// Workspace, or TYPE/NAME of a pod, deployment, statefulset or job
    #[arg(value_name = "NAME | TYPE/NAME")]
    pub name: Option<String>,
    /// Follow the logs
    #[arg(short, long)]
    pub follow: bool,
    /// Print the log of the previous run of the container
    #[arg(short, long)]
    pub previous: bool,
    /// Print the log of this container
    #[arg(short, long, value_name = "CONTAINER")]
    pub container: Option<String>,
    /// Print the logs of all containers of the pods
    #[arg(long)]
    pub all_containers: bool,
    /// Print the logs of all pods of a deployment, statefulset or job; turns --prefix on
    #[arg(long)]
    pub all_pods: bool,
    /// Only lines newer than a relative time such as 5s, 2m or 3h
    #[arg(long, value_name = "TIME", value_parser = duration::parse, allow_hyphen_values = true)]
    pub since: Option<GoDuration>,
    /// Only lines after a time in RFC 3339 form
    #[arg(long, value_name = "TIME")]
    pub since_time: Option<String>,
    /// Lines of each log to print, from its end; -1 prints all
    #[arg(long, value_name = "LINES", default_value_t = -1, allow_hyphen_values = true)]
    pub tail: i64,
    /// Put a time stamp before each line
    #[arg(long)]
    pub timestamps: bool,
    /// Put the pod's and container's name before each line
    #[arg(long)]
    pub prefix: bool,
    /// Most bytes to print of each log; 0 prints all
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 0,
        allow_hyphen_values = true
    )]
    pub limit_bytes: i64,
    /// Most logs to follow at once
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub max_log_requests: usize,
    /// Go on when a log cannot be read
    #[arg(long)]
    pub ignore_errors: bool,
    /// How long to wait for a pod that runs; for a Workspace -f waits without end unless this is given
    #[arg(long, value_name = "TIME", value_parser = duration::parse, allow_hyphen_values = true)]
    pub pod_running_timeout: Option<GoDuration>,
    /// Pods by label instead of by name
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Do not check the certificate of the node that serves the log
    #[arg(long)]
    pub insecure_skip_tls_verify_backend: bool,
}

/// Runs `logs`.
///
/// # Errors
/// Flags that contradict each other, pods or logs that cannot be read.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let question = question::parse(args, &context.printer)?;
    let cluster = Cluster::connect(context).await?;
    if !question.follow {
        return fetch::run(&question, &cluster, &context.printer).await;
    }
    let follow = follow::run(&question, &cluster, &context.printer);
    match context.connection.request_timeout.0 {
        None => follow.await,
        Some(limit) => tokio::time::timeout(limit, follow)
            .await
            .unwrap_or_else(|_| {
                Err(Failure::error(format!(
                    "--request-timeout of {}s is over",
                    limit.as_secs_f64()
                )))
            }),
    }
}
