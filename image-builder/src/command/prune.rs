//! `prune`: forgets what is remembered between runs, and removes what interrupted builds left in a layout.

use std::path::PathBuf;

use super::Context;
use super::failure::{Exit, Failure};
use super::flags::CacheFlags;
use crate::layout::Layout;
use crate::progress::Size;

/// Flags of `prune`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// OCI layouts whose unused blobs are removed; without one the cache is cleared
    #[arg(value_name = "DIR")]
    pub(crate) layouts: Vec<PathBuf>,
    /// What is remembered.
    #[command(flatten)]
    pub(crate) cache: CacheFlags,
}

/// Prunes.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    for path in &args.layouts {
        let freed = Layout::open(path).await?.prune().await?;
        context
            .output
            .data(&format!("{}: {} freed", path.display(), Size(freed)))?;
    }
    if !args.layouts.is_empty() {
        return Ok(Exit::Success);
    }
    let directory = args
        .cache
        .directory(context)
        .ok_or_else(|| Failure::message("there is no cache: no home directory is set"))?;
    let mut freed = 0;
    // Only what the cache consists of: the directory may have been named by mistake.
    for name in ["digests.jsonl", "journal.jsonl"] {
        let path = directory.join(name);
        match std::fs::metadata(&path) {
            Ok(metadata) => {
                freed += metadata.len();
                std::fs::remove_file(&path).map_err(|error| {
                    Failure::message(format!("cannot remove {}: {error}", path.display()))
                })?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Failure::message(format!(
                    "cannot read {}: {error}",
                    path.display()
                )));
            }
        }
    }
    context
        .output
        .data(&format!("{}: {} freed", directory.display(), Size(freed)))?;
    Ok(Exit::Success)
}
