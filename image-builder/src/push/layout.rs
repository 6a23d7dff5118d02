//! Blobs into a layout on disk: hashed while they are written.

use super::error::PushError;
use super::feed::{Fed, Feed, outcome};
use crate::layout::Layout;

/// Writes what a feed hands on. The digest is what was read; the layout gives the blob its name when it is whole.
pub(super) async fn write(
    layout: &Layout,
    name: &str,
    mut feed: Feed,
    on_written: impl Fn(u64),
) -> Result<Result<Fed, super::feed::FeedError>, PushError> {
    let failed = |cause| PushError::layout(name, cause);
    let mut writer = layout.begin().await.map_err(failed)?;
    while let Some(Some(bytes)) = feed.items.recv().await {
        let length = bytes.len() as u64;
        writer.write(bytes).await.map_err(failed)?;
        on_written(length);
    }
    let fed = match outcome(feed.outcome).await {
        Ok(fed) => fed,
        // The writer removes what it has when it is dropped.
        Err(error) => return Ok(Err(error)),
    };
    writer.commit(fed.digest).await.map_err(failed)?;
    Ok(Ok(fed))
}
